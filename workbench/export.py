"""Export: a moment's mesh, voxels with corners and fields, scalars and cameras as files that other programs read."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from sparseflex.data import WRITABLE, save_mesh, transform_mesh
from sparseflex.mesh import Mesh
from sparseflex.training.run import rows_of
from sparseflex.transforms import write_transforms
from workbench import quantities, theme
from workbench.colour_maps import Scale
from workbench.field_copies import SURFACE
from workbench.moment import Moment, of_snapshot
from workbench.normals import normal_colours
from workbench.quantities import Quantity
from workbench.snapshot import History, MeshArrays
from workbench.surface_view import distances, voxel_of_vertices

if TYPE_CHECKING:
    from workbench.view_state import ViewState
    from workbench.window import Window

MESHES = {"surface": SURFACE, "section": "mesh", "target": "target"}
"""Words for a run's meshes: the whole surface, what the last section gave, and what is to be reached."""

NORMAL, ERROR = "normal", "error"
SUFFIXES = (*WRITABLE, ".npz", ".csv", ".json")
_OWN_NAMES = ("iteration", "resolution", "voxel_ijk", "voxel_corners", "corner_ijk")


@dataclasses.dataclass(frozen=True)
class MeshChoice:
    """mesh: "auto" or one of MESHES. colour: "" for none, "normal", "error" (distance to the target, in voxel widths
    where there are voxels), or the name of a field of corners or voxels; part: its column as the window names it, ""
    for the first. limits: low and high of the colours, None for those the window takes. input_frame: in the input's.
    """

    mesh: str = "auto"
    colour: str = ""
    part: str = ""
    limits: tuple[float, float] | None = None
    input_frame: bool = False


def export(moment: Moment, path: Path, choice: MeshChoice | None = None) -> str:
    """Writes what the suffix asks for, and says in one line what that was. Whole or not at all: a file that was there
    stays until the new one is complete. Raises ValueError for what can't be, OSError for what can't be written."""
    def mesh() -> str:
        return write_mesh(moment, path, choice or MeshChoice())

    writers: dict[str, Callable[[], str]] = {
        **dict.fromkeys(WRITABLE, mesh), ".npz": lambda: write_voxels(moment, path),
        ".csv": lambda: write_scalars(moment.history, path), ".json": lambda: write_cameras(moment, path),
    }
    suffix = path.suffix.lower()
    if suffix not in writers:
        raise ValueError(f"{path}: unknown type {path.suffix!r}; allowed are {', '.join(SUFFIXES)}")
    return f"{path}: {writers[suffix]()}"


# Meshes


def write_mesh(moment: Moment, path: Path, choice: MeshChoice) -> str:
    found = moment.shown_mesh() if choice.mesh == "auto" else _named_mesh(moment, choice.mesh)
    if found is None:
        raise ValueError(f"{moment.name} has no mesh at iteration {moment.iteration}")
    name, arrays = found
    colours, scale_note = (None, "") if not choice.colour else mesh_colours(moment, arrays, choice)
    mesh, colours, n_bad = finite_part(arrays, colours)
    if choice.input_frame:
        mesh = transform_mesh(mesh, moment.input_from_normalized)
    if colours is not None:
        colours = np.where(np.isfinite(colours), colours, np.float32(theme.NOT_A_NUMBER))
    if colours is not None and path.suffix.lower() == ".glb":  # whose colours are linear by its specification
        colours = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    save_mesh(path, mesh, None if colours is None else torch.from_numpy(np.ascontiguousarray(colours)).float())
    if name in moment.older:
        scale_note += f", as recorded at iteration {moment.older[name]}"
    word = next((word for word, field in MESHES.items() if field == name), name)
    if name == MESHES["section"] and SURFACE not in moment.kinds:  # of a run that works on all of it at once
        word = "surface"
    note = f"; {n_bad:,} vertices without a place were left out" if n_bad else ""
    return f"{word}, {mesh.n_vertices:,} vertices, {mesh.n_faces:,} faces{scale_note}{note}"


def _named_mesh(moment: Moment, word: str) -> tuple[str, MeshArrays]:
    if word not in MESHES:
        raise ValueError(f"mesh must be one of auto, {', '.join(MESHES)}, got {word!r}")
    name = MESHES["section" if word == "surface" and SURFACE not in moment.kinds else word]
    mesh = moment.field(name) if moment.kinds.get(name) == "mesh" else None
    if mesh is None:
        raise ValueError(f"{moment.name} has no {word} mesh at iteration {moment.iteration}")
    return name, mesh


def finite_part(
    arrays: MeshArrays, colours: Float[np.ndarray, "V 3"] | None
) -> tuple[Mesh, Float[np.ndarray, "V 3"] | None, int]:
    """The mesh without vertices that are nowhere (NaN, infinite) and their faces; how many vertices these were."""
    good = np.isfinite(arrays.vertices).all(axis=1)
    vertices, faces = arrays.vertices, arrays.faces.astype(np.int64)
    if not good.all():
        row = np.cumsum(good) - 1
        faces, vertices = row[faces[good[faces].all(axis=1)]], vertices[good]
        colours = colours if colours is None else colours[good]
    mesh = Mesh(torch.tensor(np.asarray(vertices, np.float32)), torch.tensor(faces.reshape(-1, 3)))
    return mesh, colours, int((~good).sum())


def mesh_colours(moment: Moment, mesh: MeshArrays, choice: MeshChoice) -> tuple[Float[np.ndarray, "V 3"], str]:
    """One colour a vertex, sRGB in [0, 1], and what the map's ends stand for, as text."""
    if choice.colour == NORMAL:
        return normal_colours(mesh), ", coloured by its normals"
    if choice.colour == ERROR:
        shown, values, beside = _error(moment, mesh)
    else:
        shown, values, beside = _field(moment, mesh, choice.colour, choice.part)
    low, high = choice.limits or shown.automatic
    low = max(low, 0.0) if choice.colour == ERROR and choice.limits is None else low
    scale = Scale(low, high, "diverging" if shown.signed else "viridis")
    colours = scale.colours(values)
    colours[beside] = theme.MESH
    unit = f" {shown.unit}" if shown.unit else ""
    return colours, f", coloured by {shown.label} from {low:.4g} to {high:.4g}{unit} ({scale.name})"


def _error(moment: Moment, mesh: MeshArrays) -> tuple[Quantity, np.ndarray, np.ndarray]:
    target, voxels = (moment.field(name) if name in moment.kinds else None for name in ("target", "voxels"))
    if target is None:
        raise ValueError(f"colour error: {moment.name} has no target")
    widths = 1 if voxels is None else voxels.resolution
    unit = quantities.WORLD if voxels is None else quantities.VOXEL_WIDTHS
    shown = quantities.of_values("distance to the target", "", unit, False, distances(mesh, target) * widths)
    return shown, shown.values, np.zeros(len(shown.values), bool)


def _field(moment: Moment, mesh: MeshArrays, name: str, part: str) -> tuple[Quantity, np.ndarray, np.ndarray]:
    """A field as the window colours the mesh by it: the value of the voxel that a vertex lies in, and where it is in
    none."""
    known = quantities.voxel_names(moment.kinds)
    known = [name for name in known if name != quantities.SDF_ERROR]
    if name not in known:
        raise ValueError(f"colour must be one of {', '.join((NORMAL, ERROR, *known))}, got {name!r}")
    owner = rows_of(name, moment.kinds[name])
    values, voxels = moment.field(name), moment.field(owner) if owner in moment.kinds else None
    if values is None or voxels is None:
        raise ValueError(f"colour {name}: {moment.name} does not have it at iteration {moment.iteration}")
    at_corners = moment.kinds[name] == "corner"
    if len(values) != (voxels.n_corners if at_corners else voxels.n_voxels):
        raise ValueError(f"colour {name}: it belongs to other voxels than those of iteration {moment.iteration}")
    parts = quantities.parts_of(name, values)
    if part and part not in parts:
        raise ValueError(f"colour {name}: part must be one of {', '.join(parts)}, got {part!r}")
    column = quantities.one_column(name, values, part or parts[0])
    if at_corners:
        column = quantities.voxel_means(voxels, column)
    shown = quantities.quantity(name, part or parts[0], column, voxels.resolution, False)
    rows = voxel_of_vertices(mesh, voxels)
    found = np.zeros(len(rows), np.float32)
    found[rows >= 0] = shown.values[rows[rows >= 0]]
    return shown, found, rows < 0


# Voxels, scalars, cameras


def write_voxels(moment: Moment, path: Path) -> str:
    """An .npz: iteration, resolution R, voxel_ijk (N, 3), voxel_corners (N, 8), corner_ijk (C, 3) and every field of
    voxels (N, …) and corners (C, …) by its name; corner c lies at c / R − 0.5. Fields that don't fit are left out."""
    voxels = moment.field("voxels") if moment.kinds.get("voxels") == "voxels" else None
    if voxels is None:
        raise ValueError(f"{moment.name} has no voxels at iteration {moment.iteration}")
    arrays: dict[str, Any] = {
        "iteration": np.int64(moment.iteration), "resolution": np.int64(voxels.resolution),
        "voxel_ijk": voxels.voxel_ijk.numpy(), "voxel_corners": voxels.voxel_corners.numpy(),
        "corner_ijk": voxels.corner_ijk.numpy(),
    }
    n_fields = 0
    for name, kind in moment.kinds.items():
        values = moment.field(name) if rows_of(name, kind) == "voxels" else None
        if values is not None and len(values) == (voxels.n_voxels if kind == "voxel" else voxels.n_corners):
            arrays[f"field_{name}" if name in _OWN_NAMES else name] = values
            n_fields += 1
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in arrays.items():  # as numpy.savez does, which can't take every name; no time goes in
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
    _write(path, content.getvalue())
    past = sorted({iteration for name, iteration in moment.older.items() if name in arrays})
    note = f", the oldest as recorded at iteration {past[0]}" if past else ""
    return f"{voxels.n_voxels:,} voxels of {voxels.resolution}³, {voxels.n_corners:,} corners, {n_fields} fields{note}"


def write_scalars(history: History, path: Path) -> str:
    """A CSV with a row an iteration, iteration first, floats to the last digit, nothing where a value is missing."""
    names = ["iteration", *(name for name in history.names if name != "iteration")]
    columns = [history.column(name) for name in names if name in history.names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_number(value) for value in row] for row in zip(*columns, strict=True))
    _write(path, text.getvalue().encode())
    return f"{len(names)} scalars of {history.n_rows:,} iteration" + "s" * (history.n_rows != 1)


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(float(value))


def write_cameras(moment: Moment, path: Path) -> str:
    """A transforms.json in the normalised frame: a scene's [cameras] can name it. file_path is the camera's label."""
    part = path.with_name(path.name + ".part")
    write_transforms(part, [known.camera for known in moment.cameras], [known.label for known in moment.cameras])
    part.replace(path)
    return f"{len(moment.cameras)} cameras"


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


# From the window


def export_from_window(window: Window, suffix: str) -> None:
    """Writes the mesh as it is drawn, the scalars or the cameras into the folder of the run; the notice says where."""
    view, snapshot = window.view, window.snapshot
    path = view.checkpoint_path.parent / f"export_{snapshot.iteration:06d}{suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix in WRITABLE:
            said = f"{path}: {_write_drawn(view, path)}"
        else:
            said = export(of_snapshot(snapshot, view.title), path)
    except (OSError, ValueError) as error:
        view.notice = f"not exported: {error}"
    else:
        view.notice = f"exported {said}"


def _write_drawn(view: ViewState, path: Path) -> str:
    arrays, colours = view.surfaces.mesh, view.surfaces.colours
    if arrays is None or not view.layers["mesh"]:
        raise ValueError("there is no mesh in the scene; layer Mesh shows it")
    if view.mesh_colour == NORMAL:
        colours = normal_colours(arrays)
    mesh, colours, _ = finite_part(arrays, colours)
    save_mesh(path, mesh, None if colours is None else torch.tensor(colours))
    return f"the mesh as drawn, {mesh.n_vertices:,} vertices, {mesh.n_faces:,} faces"
