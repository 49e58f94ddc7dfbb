"""What the window costs besides the redraw itself with a million voxels: panels, colours, another camera."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

from bench_ui import SIZE, on_software_display
from fresh import row, run_job, serve

N_FRAMES, N_SWITCHES, N_ITERATIONS = 12, 5, 20_000
RESOLUTIONS = (256, 512)
RADII = {256: (0.49, 5.06), 512: (0.49, 1.27)}
"""By resolution: radius of a spherical shell in world units and its thickness in voxels; a million voxels each."""


def _drag_ratio(look, number: int) -> None:
    look.planes, look.anchor, look.ratio = "adapted", "front", 0.2 + 0.05 * number


def _drag_anchor(look, number: int) -> None:
    look.planes, look.anchor = "adapted", ("centre", "back")[number % 2]


def _drag_plane(name: str, start: float):
    def drag(look, number: int) -> None:
        look.set_plane(name, start + 0.02 * number)

    return drag


def _drag_camera(look, number: int) -> None:
    from workbench.what_if import Move

    look.planes, look.moving, look.move = "run", True, Move(turn=5.0 * (number + 1), tilt=3.0)


DRAGS = {"α": _drag_ratio, "anchor": _drag_anchor, "near": _drag_plane("near", 1.1), "far": _drag_plane("far", 1.6),
         "camera": _drag_camera}


def shell_run(resolution: int):
    """A run that stands still: a million voxels of a spherical shell with every kind of field, and eight cameras."""
    import math

    import torch

    from sparseflex.camera import Camera
    from sparseflex.mesh import Mesh
    from sparseflex.representation import N_WEIGHTS, activate_weights
    from sparseflex.shapes import make_shape
    from sparseflex.training.run import RunCamera
    from sparseflex.voxels import SparseVoxels

    radius, thickness = RADII[resolution]
    reach = math.ceil((radius + thickness / resolution) * resolution)
    line = torch.arange(max(resolution // 2 - reach, 0), min(resolution // 2 + reach, resolution))
    parts = []
    for x in line:  # slab by slab: the dense grid would be too large
        yz = torch.cartesian_prod(line, line)
        ijk = torch.cat([x.expand(len(yz), 1), yz], dim=1)
        distance = ((ijk + 0.5) / resolution - 0.5).norm(dim=1) - radius
        parts.append(ijk[distance.abs() < thickness / 2 / resolution].int())
    voxels = SparseVoxels(torch.cat(parts), resolution)
    generator = torch.Generator().manual_seed(0)
    alpha, beta, gamma = activate_weights(torch.randn(voxels.n_voxels, N_WEIGHTS, generator=generator))
    shape = make_shape("high_genus")
    fields = {
        "voxels": voxels, "alpha": alpha, "beta": beta, "gamma": gamma,
        "corner_sdf": voxels.corners_world.norm(dim=1) - radius,
        "corner_deform": 0.1 * torch.randn(voxels.n_corners, 3, generator=generator),
        "mesh": Mesh(shape.vertices.float(), shape.faces), "target": Mesh(shape.vertices.float(), shape.faces),
    }
    kinds = {"voxels": "voxels", "alpha": "voxel", "beta": "voxel", "gamma": "voxel", "corner_sdf": "corner",
             "corner_deform": "corner", "mesh": "mesh", "target": "mesh"}
    for origin in ("rendered", "target"):
        fields |= {f"{origin}_depth": 1 + torch.rand(256, 256, generator=generator),
                   f"{origin}_normal": torch.randn(256, 256, 3, generator=generator),
                   f"{origin}_mask": torch.rand(256, 256, generator=generator)}
    kinds |= {name: "map" for name in fields if name.split("_")[0] in ("rendered", "target") and "_" in name}
    losses = torch.rand(12, N_ITERATIONS, generator=generator, dtype=torch.float64)
    history = {"iteration": list(range(1, N_ITERATIONS + 1)), "loss": losses[0].tolist()}
    history |= {f"loss_term{k}": losses[k].tolist() for k in range(1, 8)}
    history |= {f"secs_stage{k}": losses[k].tolist() for k in range(8, 12)}
    cameras = [
        RunCamera(Camera.look_at((1.5 * math.cos(0.7 * k), 0.4, 1.5 * math.sin(0.7 * k)), (0, 0, 0), width=256,
                                 height=256, near=1.2 + 0.05 * k, far=1.7), "orbit", 0.1 + k, None, k)
        for k in range(8)
    ]

    class Still:
        name, stages, iteration = "a million voxels", ("wait",), 0
        stage_costs: dict = {}
        settings: dict = {}

        def __init__(self) -> None:
            self.fields, self.history = kinds, history

        def run_stage(self, stage: str) -> None:
            self.iteration += 1

        def scalars(self) -> dict:
            return {"voxels": float(voxels.n_voxels)}

        def read_field(self, name: str):
            return fields[name]

        def cameras(self) -> list:
            return cameras

        def change_setting(self, name: str, value: float) -> None:
            raise ValueError(f"no setting {name}")

        def state_dict(self) -> dict:
            return {}

        def load_state_dict(self, state: dict) -> None:
            pass

    return Still()


def job_costs(resolution: int) -> dict:
    """Milliseconds: the panels of the costliest pair of tabs, a switch of colours, another camera; medians."""
    import tempfile

    from workbench import panes
    from workbench.app import open_window
    from workbench.panels import COLUMNS

    spent: dict[str, list[float]] = {}
    draw, doing = panes.draw, ["warm up"]

    def timed_draw(*arguments):
        started = time.perf_counter()
        try:
            return draw(*arguments)
        finally:
            spent.setdefault(doing[0], []).append(1e3 * (time.perf_counter() - started))

    def timed(name: str, work) -> None:
        started = time.perf_counter()
        work()
        spent.setdefault(name, []).append(1e3 * (time.perf_counter() - started))

    def looked(view, snapshot, redraw: str = "") -> None:
        """From the drag to all that it changes; redraw: the part of it that keeps the window waiting."""
        for _ in range(2):
            started = time.perf_counter()
            view.frustum.update(view, snapshot)
            if redraw:
                spent.setdefault(redraw, []).append(1e3 * (time.perf_counter() - started))
            view.quick.wait_for("look", 60)
        if view.frustum.look.camera is not view.split.camera or view.quick.busy("look"):
            raise RuntimeError("the split is of another camera")

    def compared(view, snapshot, number: int) -> None:
        view.what_ifs.keep("AB"[number % 2], view)
        for _ in range(2):
            view.frustum.update(view, snapshot)
            view.quick.wait_for("what-if difference", 60)
        if view.what_ifs.difference is None:
            raise RuntimeError("nothing was compared")

    def visit(window) -> Iterator[None]:
        view = window.view
        for _ in range(4):
            yield
        for column, tabs in COLUMNS.items():
            for tab in tabs:
                view.tabs[column] = tab
                doing[0] = "warm up"
                yield
                doing[0] = f"panels {tab}"
                for _ in range(N_FRAMES):
                    yield
        doing[0] = "rest"
        view.tabs["left"] = "Frustum"
        for _ in range(N_SWITCHES):
            view.step_camera(window.snapshot, 1)
            timed("camera", lambda: looked(view, window.snapshot))
            timed("camera in the scene", lambda: window._update_scene(True))
            yield
        for number in range(N_SWITCHES):
            for name, drag in DRAGS.items():
                drag(view.frustum, number)
                timed(f"what-if {name}", lambda: looked(view, window.snapshot, "redraw held up"))
                yield
            timed("compared", lambda number=number: compared(view, window.snapshot, number))
            yield
        view.what_ifs.kept.clear()
        view.frustum.planes = "run"
        view.field.voxels_coloured = True
        view.layers["sdf"] = False
        for number in range(N_SWITCHES + 1):
            view.field.at_voxels = ("gamma", "alpha")[number % 2]
            while not window.view.scene_fields(window.snapshot) <= window.snapshot.asked:
                yield
            timed("colours" if number else "first colours", lambda: window._update_scene(True))
            yield

    with tempfile.TemporaryDirectory() as out:
        os.environ["XDG_CONFIG_HOME"] = out
        panes.draw = timed_draw
        steps = []

        def script(window) -> bool:
            if not steps:
                steps.append(visit(window))
            return next(steps[0], "done") == "done"

        if open_window(shell_run(resolution), title="bench", out_dir=out, size=SIZE, scripted=script):
            raise RuntimeError("the run or the window failed")
    found = {name: statistics.median(values) for name, values in spent.items()}
    tab = max((name for name in found if name.startswith("panels")), key=found.get)
    return {"tab": tab.removeprefix("panels "), "panels": found[tab], "camera": found["camera"],
            "in_scene": found["camera in the scene"], "colours": found["colours"],
            "what_if": max(found[f"what-if {name}"] for name in DRAGS), "held_up": found["redraw held up"],
            "compared": found["compared"], "all": found}


def rows() -> list[dict]:
    """The rows of `workbench bench`."""
    found = []
    with on_software_display():
        for resolution in RESOLUTIONS:
            cost = run_job(__file__, "costs", resolution)
            where = f"{resolution}³, 1e6 voxels"
            found += [
                row(f"{where}: a frame's panels, costliest tab ({cost['tab']})", cost["panels"], "ms", 4),
                row(f"{where}: switching the voxels' colours", cost["colours"], "ms", 50),
                row(f"{where}: split, planes, counts, histogram of another camera", cost["camera"], "ms", 100),
                row(f"{where}: what-if: the same while α, planes or camera are dragged, the slowest", cost["what_if"],
                    "ms", 100),
                row(f"{where}: of that, what a redraw waits for", cost["held_up"], "ms"),
                row(f"{where}: two what-ifs compared", cost["compared"], "ms", 100),
                row(f"{where}: another camera's, and put into the scene",
                    cost["camera"] + cost["in_scene"], "ms", 100),
            ]
    return found


if __name__ == "__main__":
    serve({"costs": job_costs})
