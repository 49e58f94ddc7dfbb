"""Pictures of the window, as README and tour show them: `make pictures`, or one by its name:

    xvfb-run -a -s '-screen 0 1920x1080x24 +extension GLX' .venv/bin/python tests/benchmarks/window_picture.py frustum

They lie in workbench/docs. --what shows something else instead, --size and --theme another window.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from workbench.app import open_window
from workbench.cli_pair import Side, make_pair
from workbench.commands import NextIteration, NextStage, RunIterations
from workbench.inputs import network_file, open_what
from workbench.network_view import Picked
from workbench.panels import COLUMNS, OF_INFERENCE
from workbench.reconstruction import Network, open_reconstruction
from workbench.view_state import ViewState
from workbench.window import Window

DOCS = Path(__file__).resolve().parents[2] / "workbench" / "docs"
_SETTLED_FRAMES = 8


@dataclasses.dataclass(frozen=True)
class Picture:
    """what: as for `workbench view`; stages: of the next iteration; tabs in front; prepare: what the user does then;
    other: what is shown beside it; network: weights that reconstruct it, where it isn't fitted. A scene's breakpoints
    hold: it may come to rest before."""

    what: str
    iterations: int
    tabs: tuple[str, ...]
    prepare: Callable[[Window], None] = lambda window: None
    stages: int = 0
    theme: str = "dark"
    overrides: tuple[tuple[str, float], ...] = ()
    other: str = ""
    other_overrides: tuple[tuple[str, float], ...] = ()
    network: str = ""


def only(window: Window, *layers: str) -> None:
    for name in window.view.layers:
        window.view.layers[name] = name in layers


def _frustum(window: Window) -> None:
    frustum = window.view.frustum
    whole = next(n for n, known in enumerate(window.snapshot.cameras) if known.kind == "orbit")
    window.view.select_camera(window.snapshot, whole)
    frustum.adapted, frustum.method, frustum.ratio, frustum.anchor = True, "iterative", 0.3, "centre"


def _field(window: Window) -> None:
    only(window, "slice", "mesh", "target", "vectors")
    window.view.field.axis, window.view.field.offset = "view", 0.05


def _cameras(window: Window) -> None:
    only(window, "cameras", "target", "frustum")
    window.view.side_by_side = False


def _gradients(window: Window) -> None:
    """The voxel on which the depth pulls most, and the pixels that do."""
    own, done = window.view.gradients, window.view.gradients.summary.done
    row = int(done.voxel_norms("sdf", "depth").argmax())
    window.view.network.picked = Picked(tuple(done.section.voxel_ijk[row].tolist()), done.section.resolution)
    own.page, window.view.field.voxels_coloured, window.view.field.at_voxels = "voxel", True, "sdf_grad"


def _coverage(window: Window) -> None:
    only(window, "mesh", "target")
    field = window.view.field
    field.axis, field.offset, field.cut = "view", 0.0, True
    window.view.coverage.within = 40
    window.view.coverage.ask()


def _pruning(window: Window) -> None:
    only(window, "pruned", "wrongly_kept", "wrongly_pruned", "mesh", "target")
    splits = [event for event in window.snapshot.fields.get("prune", ()) if event.subdivided]
    window.view.pruning.chosen = splits[-1].iteration


def _pair(window: Window) -> None:
    only(window, "active", "outside", "near_cut", "far_cut", "mesh")
    window.view.mesh_colour = "difference"


def _inference(window: Window) -> None:
    window.view.network.chosen = "latent"
    window.view.side_by_side = True


def _logits(window: Window) -> None:
    only(window, "active", "pruned", "wrongly_pruned", "mesh", "points")


def _changes(window: Window) -> None:
    window.view.layers["frustum"] = False
    window.engine.send(NextIteration())


def _palette(window: Window) -> None:
    window.view.palette.open()


PICTURES = {
    "window": Picture("house", 272, ("Frustum", "Maps")),
    "frustum": Picture("house", 60, ("Frustum", "Plots"), _frustum, stages=2, overrides=(("visibility_ratio", 0.3),)),
    "cameras": Picture("house", 64, ("Cameras", "Maps"), _cameras, overrides=(("visibility_ratio", 0.3),)),
    "costs": Picture("house", 120, ("Cameras", "Costs"), overrides=(("visibility_ratio", 0.3),)),
    "field": Picture("nested_shells", 150, ("Field", "Maps"), _field),
    "coverage": Picture("fails_unseen_interior", 90, ("Coverage", "Plots"), _coverage),
    "pruning": Picture("high_genus", 300, ("Layers", "Pruning"), _pruning, overrides=(
        ("resolution", 64), ("start_resolution", 16), ("iterations", 300))),
    "gradients": Picture("lantern", 60, ("Gradients", "Maps"), _gradients),
    "changes": Picture("fails_inside_out", 119, ("Changes", "Maps"), _changes),
    "pair": Picture("lantern", 250, ("Layers", "Plots"), _pair, other="lantern",
                    other_overrides=(("visibility_ratio", 0.2),)),
    "inference": Picture("lantern", 1, ("Network", "Latent"), _inference, network="tiny_vae"),
    "logits": Picture("high_genus", 1, ("Layers", "Pruning"), _logits, network="tiny_vae"),
    "light": Picture("lantern", 150, ("Layers", "Plots"), _palette, theme="light"),
}


def make(picture: Picture, out: Path, size: tuple[int, int]) -> int:
    if picture.network:
        opened = open_reconstruction(Network(network_file(picture.network)), picture.what)
    else:
        opened = open_what(picture.what, overrides=dict(picture.overrides))
    pair = None
    if picture.other:
        sides = [Side(run, run.input_from_normalized.numpy()) for run in (
            opened, open_what(picture.other, overrides=dict(picture.other_overrides)))]
        sides = [side.titled(f"{side.opened.title}, α = {side.opened.run.config.visibility_ratio:g}")
                 for side in sides]
        opened, pair = sides[0].opened, make_pair(*sides)
    view = ViewState(theme=picture.theme)
    for column, tabs in (OF_INFERENCE if picture.network else COLUMNS).items():
        view.tabs[column] = next((tab for tab in picture.tabs if tab in tabs), "")
    still, stopped = 0, False

    def script(window: Window) -> bool:
        nonlocal still, stopped
        shown = window.snapshot
        if window.n_frames == 2:
            window.engine.send(RunIterations(picture.iterations))
        if still == 1:
            for _ in range(picture.stages):
                window.engine.send(NextStage())
        if still == 3:
            picture.prepare(window)
        stopped = stopped or bool(shown.hits)
        arrived = (shown.iteration >= picture.iterations or stopped) and not shown.playing
        arrived = arrived and window.view.worker.idle
        arrived = arrived and (pair is None or pair.latest.iteration == shown.iteration and not pair.latest.playing)
        still = still + 1 if arrived else min(still, 4)
        if still == _SETTLED_FRAMES:
            window.screenshot(out)
        return still > _SETTLED_FRAMES

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder  # the picture shall not depend on what its maker prefers
        return open_window(opened.run, title=opened.title, out_dir=folder, scripted=script, size=size,
                           home=opened.view.camera(), view=view, pair=pair, breakpoints=opened.breakpoints)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=sorted(PICTURES), help="which; all of them where not given")
    parser.add_argument("--what", help="a scene, mesh or checkpoint instead of the picture's own")
    parser.add_argument("--theme", choices=("dark", "light"))
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 900))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.name is None:  # one process each: a process has one window
        return max(subprocess.call([sys.executable, __file__, name]) for name in PICTURES)
    picture = PICTURES[arguments.name]
    changes = {name: value for name in ("what", "theme") if (value := getattr(arguments, name))}
    out = arguments.out or DOCS / f"{'tour_' * (arguments.name != 'window')}{arguments.name}.png"
    return make(dataclasses.replace(picture, **changes), out, tuple(arguments.size))


if __name__ == "__main__":
    raise SystemExit(main())
