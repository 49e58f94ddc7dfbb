"""Opens the real window on a FakeRun, or a scene, and prints its state as JSON lines; for test_window.py."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import polyscope as ps
from fake_run import FakeRun

from sparseflex.training.run import Run
from workbench.app import open_window
from workbench.inputs import open_what
from workbench.panels import scalars
from workbench.recording.reader import Recording
from workbench.subject import Subject
from workbench.ui import Ui
from workbench.window import Window

TITLE = "workbench under test"


def state_of(window: Window) -> dict[str, Any]:
    snapshot, view = window.snapshot, window.view
    return {
        "iteration": snapshot.iteration,
        "source": snapshot.source,
        "reached": snapshot.past.reached,
        "stage_next": snapshot.stage_next,
        "playing": snapshot.playing,
        "failure": snapshot.failure.message if snapshot.failure else "",
        "title": view.title,
        "notice": view.notice or snapshot.notice,
        "layers": [name for name, shown in (view.layers or {}).items() if shown],
        "fields": sorted(snapshot.fields),
        "camera": view.selected_index(snapshot),
        "following": view.pinned is None,
        "panels": view.show_panels,
        "keys": view.show_keys,
        "palette": view.palette.shown,
        "theme": view.theme,
        "difference": view.show_difference,
        "failed": window.failed.splitlines()[-1] if window.failed else "",
        "frames": window.n_frames if window.n_frames < 3 else 3,
        "left": view.tabs["left"],
        "picking": view.cameras.picking,
        "said": view.cameras.notice,
        "own_cameras": len(snapshot.own_cameras or ()),
        "rows": [seen.kind for seen in view.cameras.rows(snapshot)],
        "cameras_drawn": cameras_drawn(),
        "typed": view.breakpoints.text,
        "breakpoints": [[point.expression, point.enabled, point.hits] for point in snapshot.breakpoints],
        "hits": [[hit.stage, hit.iteration] for hit in snapshot.hits],
        "planes": view.frustum.planes,
        "kept": sorted(view.what_ifs.kept),
        "compared": ps.has_sparse_volume_grid("what-if both"),
    }


def cameras_drawn() -> int:
    """How many cameras stand in the scene: five nodes each."""
    return ps.get_curve_network("cameras").n_nodes() // 5 if ps.has_curve_network("cameras") else 0


def raise_in_a_table(ui: Ui, *_: Any) -> None:
    """With as much left open as can be: ImGui must close it all."""
    im = ui.im
    im.BeginTable("spoiled", 2, int(im.ImGuiTableFlags_ScrollY), (0.0, 100.0))
    im.TableNextColumn()
    im.PushID("row")
    im.BeginDisabled(True)
    raise ArithmeticError("in the middle of a table")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--only-scalars", action="store_true")
    parser.add_argument("--break-ui", choices=("layers", "edited", "table"), help="what to spoil at iteration 1")
    parser.add_argument("--drop", nargs="*", default=[], help="what to drop on the window at iteration 1")
    parser.add_argument("--playing", action="store_true")
    parser.add_argument("--scene", help="a scene to fit coarsely in place of the FakeRun")
    parser.add_argument("--recording", type=Path, help="show this recording")
    parser.add_argument("--follow", action="store_true")
    arguments = parser.parse_args()
    fail_at = None if arguments.fail_at is None else (arguments.fail_at, "render")
    if arguments.scene:
        run = open_what(arguments.scene, overrides={"resolution": 16}).run
    else:
        run = FakeRun(12, fail_at=fail_at, stage_secs=0.002, only_scalars=arguments.only_scalars)
    last: dict[str, Any] = {}

    def report(window: Window) -> bool:
        nonlocal last
        state = state_of(window)
        if state != last:
            last = state
            print(json.dumps(state), flush=True)
        if window.snapshot.iteration == 1 and arguments.drop:
            window.drop(arguments.drop)
            arguments.drop = []
        if arguments.break_ui and window.snapshot.iteration == 1:
            if arguments.break_ui == "table":
                window.view.tabs["right"], scalars.draw = "Scalars", raise_in_a_table
            else:
                setattr(window.view, arguments.break_ui, None)
        return False

    def save(path: Path, saved: Run) -> None:
        path.write_text(str(saved.iteration))

    def brancher(branched: Run) -> Subject:
        return Subject(branched, "branched", arguments.out / "branched")

    def opener(path: str) -> Subject:
        if not path.endswith(".obj"):
            raise ValueError(f"{path}: not a mesh")
        return Subject(FakeRun(8, stage_secs=0.002), "dropped", arguments.out / "dropped")

    if arguments.recording is not None:
        run = Recording(arguments.recording)
    return open_window(run, title=TITLE, follow=arguments.follow, brancher=brancher, out_dir=arguments.out,
                       paused=not arguments.playing, scripted=report,
                       save=save, size=(1000, 640), opener=opener)


if __name__ == "__main__":
    sys.exit(main())
