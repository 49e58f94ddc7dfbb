"""Fits meshes and scenes with the default settings and writes the results page: a table and a picture of each.

    python tests/benchmarks/results.py MESH… [--scenes] [--out workbench/docs]

Rows: the untrained parameters, the extraction of the exact signed distance on the touched voxels, the fit. --scenes
adds the house and the nested shells with and without cuts, windows and interior cameras.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import sparseflex as sf
from sparseflex.data import load_mesh, normalize
from sparseflex.quality import exact_sdf_mesh, interior_f_score, surface_quality
from sparseflex.render import render_maps
from sparseflex.shapes import make_shape
from sparseflex.training.config import FitConfig
from sparseflex.training.fit import FitRun

_SIZE, _SUPERSAMPLING, _MARGIN = 360, 2, 12
_LIGHT = torch.tensor([0.35, 0.65, 0.67])
_FRONT, _BACK, _PAPER = torch.tensor([0.86, 0.83, 0.78]), torch.tensor([0.34, 0.71, 0.91]), 1.0
_SCENE_ITERATIONS = 450  # as many as go into 90 seconds: the house has three times the voxels of a mesh
_OUTSIDE_ONLY = {"cut_share": 0.0, "window_share": 0.0, "interior_share": 0.0, "zoom_share": 0.5, "orbit_share": 0.5}


def framed(target: sf.Mesh, eye: tuple[float, float, float], near: float = 0.2) -> sf.Camera:
    """A camera at eye whose image the target just fills."""
    side = _SIZE * _SUPERSAMPLING
    camera = sf.Camera.look_at(eye, (0, 0, 0), width=side, height=side, near=near, far=6)
    x, y, z = camera.to_camera_space(target.vertices.double()).unbind(1)
    reach = 1.06 * float((torch.maximum(x.abs(), y.abs()) / -z).amax())
    return dataclasses.replace(camera, fov_y_degrees=2 * math.degrees(math.atan(reach)))


def clay(mesh: sf.Mesh, camera: sf.Camera) -> Image.Image:
    """The mesh in clay, backs of faces in sky blue, on white."""
    own, turned = render_maps(mesh, camera), render_maps(mesh, camera, two_sided=True)
    is_back = (own.normal * turned.normal).sum(2) < 0
    right = torch.linalg.cross(camera.forward_world, camera.up_world).float()
    light = right * _LIGHT[0] + camera.up_world.float() * _LIGHT[1] - camera.forward_world.float() * _LIGHT[2]
    shade = 0.35 + 0.65 * (turned.normal @ light).clamp(min=0)
    colour = torch.where(is_back[..., None], _BACK, _FRONT) * shade[..., None]
    image = torch.where(own.hit[..., None], colour, _PAPER)
    image = image.view(_SIZE, _SUPERSAMPLING, _SIZE, _SUPERSAMPLING, 3).mean((1, 3)).clamp(0, 1) ** (1 / 1.6)
    return Image.fromarray((image * 255).round().to(torch.uint8).numpy())


def plate(cells: dict[str, Image.Image]) -> Image.Image:
    """The pictures side by side, each under its name."""
    font = ImageFont.load_default(size=20)
    sheet = Image.new("RGB", (len(cells) * (_SIZE + _MARGIN) + _MARGIN, _SIZE + 44), "white")
    draw = ImageDraw.Draw(sheet)
    for k, (name, picture) in enumerate(cells.items()):
        left = _MARGIN + k * (_SIZE + _MARGIN)
        sheet.paste(picture, (left, 36))
        draw.text((left + _SIZE / 2, 22), name, "#333333", font=font, anchor="mm")
    return sheet


@dataclasses.dataclass(frozen=True)
class Fitted:
    untrained: sf.Mesh
    mesh: sf.Mesh
    secs: float


def fit(target: sf.Mesh, config: FitConfig) -> Fitted:
    run = FitRun(target, config)
    untrained, start = run.extract(), time.perf_counter()
    for _ in range(config.iterations):
        run.run_iteration()
    return Fitted(untrained, run.extract(), time.perf_counter() - start)


_COLUMNS = {
    "chamfer_voxels": ("CD (voxels)", "{:.4f}"), "f_score_0.005": ("F(0.005)", "{:.4f}"),
    "holes_percent": ("holes %", "{:.2f}"), "normal_degrees": ("normals °", "{:.2f}"),
    "depth_off_percent": ("depth off %", "{:.2f}"), "boundary_edges": ("open edges", "{:.0f}"),
    "faces": ("faces", "{:.0f}"),
}


def mesh_section(path: Path, config: FitConfig, out: Path) -> list[str]:
    """Table rows of one mesh; writes its picture."""
    target = load_mesh(path).mesh
    done = fit(target, config)
    meshes = {"untrained": done.untrained, "exact SDF": exact_sdf_mesh(target, config.resolution), "fit": done.mesh}
    camera = framed(target, (1.1, 0.75, 1.5))
    plate({"target": clay(target, camera)} | {name: clay(mesh, camera) for name, mesh in meshes.items()}).save(
        out / f"result_{path.stem}.png")
    lines = []
    for name, mesh in meshes.items():
        row = surface_quality(mesh, target, config.resolution)
        secs = f"{done.secs:.0f}" if name == "fit" else ""
        cells = [form.format(row[key]) for key, (_, form) in _COLUMNS.items()]
        lines.append("| " + " | ".join([path.stem if name == "untrained" else "", name, *cells, secs]) + " |")
        print(lines[-1], flush=True)
    return lines


def scene_section(shape: str, config: FitConfig, out: Path) -> list[str]:
    """Interior F-score of a scene with the default schedule, and with cameras outside alone."""
    made = make_shape(shape)
    target, _ = normalize(made.vertices.numpy(), made.faces.numpy())
    lines, camera = [], framed(target, (1.1, 0.9, 1.5), near=2.05)
    pictures = {"target, cut open": clay(target, camera)}
    schedules = (("default", {}), ("outside views alone", _OUTSIDE_ONLY))
    for name, changes in schedules:
        done = fit(target, dataclasses.replace(config, iterations=_SCENE_ITERATIONS, **changes))
        pictures[name] = clay(done.mesh, camera)
        for label, mesh in ((f"{name}, untrained", done.untrained), (name, done.mesh)):
            score = interior_f_score(mesh, target, 0.01, config.resolution)
            row = surface_quality(mesh, target, config.resolution)
            cells = [f"{score:.4f}", f"{row['chamfer_voxels']:.4f}", f"{row['f_score_0.01']:.4f}"]
            secs = f"{done.secs:.0f}" if mesh is done.mesh else ""
            lines.append("| " + " | ".join([shape, label, *cells, secs]) + " |")
            print(lines[-1], flush=True)
    plate(pictures).save(out / f"result_{shape}.png")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--scenes", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("workbench/docs"))
    parser.add_argument("--iterations", type=int, default=FitConfig().iterations)
    arguments = parser.parse_args()
    config = FitConfig(iterations=arguments.iterations)
    arguments.out.mkdir(parents=True, exist_ok=True)
    head = ["mesh", "what", *(title for title, _ in _COLUMNS.values()), "s"]
    page = ["# Results", "",
            "Made by `make results MESHES=…`; what the columns mean stands in `sparseflex/quality.py`.",
            f"Resolution {config.resolution}, {config.iterations} iterations, `random` initial SDF, two CPU cores.", "",
            "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for path in arguments.meshes:
        page += mesh_section(path, config, arguments.out)
    for path in arguments.meshes:
        page += ["", f"![{path.stem}](result_{path.stem}.png)"]
    if arguments.scenes:
        page += ["", "## Interiors", "",
                 f"F-score at 0.01 of what can't be seen from outside; {_SCENE_ITERATIONS} iterations.", "",
                 "| scene | schedule | interior F(0.01) | CD (voxels) | F(0.01) | s |", "|---|---|---|---|---|---|"]
        shapes = ("house", "nested_shells")
        for shape in shapes:
            page += scene_section(shape, config, arguments.out)
        for shape in shapes:
            page += ["", f"![{shape}](result_{shape}.png)"]
    (arguments.out / "results.md").write_text("\n".join(page) + "\n", "utf-8")


if __name__ == "__main__":
    main()
