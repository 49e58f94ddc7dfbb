"""What differs between two iterations as numbers and lists: lines to print, JSON, every voxel, corner and quad."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from workbench.change_state import edges_of
from workbench.changes import CHANGED, HEALED, INWARD, OUTWARD, PARTS, SPOILED, Changes

SUFFIXES = (".csv", ".npz")
CORNER_BITS = {"outward": OUTWARD, "inward": INWARD, "spoiled": SPOILED, "healed": HEALED, "touched": CHANGED}
FACES = ("gained", "lost", "turned")


def summary(found: Changes, threshold: float) -> dict[str, Any]:
    """All counts, as JSON takes them; corners and quads are null where they can't be compared. Lengths are in voxel
    widths of the state after."""
    def state(which: Any) -> dict[str, Any]:
        return {"label": which.label, "iteration": which.iteration, "voxels": which.voxels.n_voxels,
                "resolution": which.voxels.resolution}

    corners = None if found.d_sdf is None and found.d_deform is None else {
        "common": len(found.flags), **{name: found.n_corners_of[bit] for name, bit in CORNER_BITS.items()},
        "largest_sdf_change": _largest(found.d_sdf), "largest_deform_change": _largest(found.d_deform)}
    quads = None if found.gained is None else {
        "before": len(found.a.quads.keys), "after": len(found.b.quads.keys),
        **{name: len(getattr(found, name)) for name in FACES},
        "gained_by_sign": found.n_gained_by_sign, "lost_by_sign": found.n_lost_by_sign}
    return {"before": state(found.a), "after": state(found.b), "threshold": threshold, "note": found.note,
            "voxels": {**found.counts(threshold), "left_out": found.n_left_out,
                       "weights_spoiled": found.n_weights_spoiled}, "corners": corners, "quads": quads}


def _largest(values: np.ndarray | None) -> float | None:
    if values is None:
        return None
    known = np.abs(values[np.isfinite(values)])
    return float(known.max()) if len(known) else 0.0


def text_of(told: dict[str, Any]) -> str:
    """A summary as lines to read."""
    lines = [f"{name:<6}  {state['label']}: {state['voxels']:,} voxels of {state['resolution']}³"
             for name, state in (("before", told["before"]), ("after", told["after"]))]
    lines += [told["note"]] if told["note"] else []
    voxels, corners, quads = told["voxels"], told["corners"], told["quads"]
    parts = ("born", "pruned", "same") if told["note"] else PARTS
    words = {**_WORDS, "same": "in both"} if told["note"] else _WORDS
    lines += _rows("voxels", [(voxels[part], words.get(part, part)) for part in parts])
    lines += _rows("", [(voxels["weights_spoiled"], "of which by α, β or γ")] if voxels["weights_spoiled"] else [])
    lines += _rows("", [(voxels["left_out"], "children left out")] if voxels["left_out"] else [])
    if corners is not None:
        lines += _rows("corners", [(corners[name], _WORDS[name]) for name in CORNER_BITS])
        for name, label in (("largest_deform_change", "|Δδ|"), ("largest_sdf_change", "|ΔSDF|")):
            if corners[name] is not None:
                lines.append(f"{'':<9}{corners[name]:>12.4g}  voxel widths, the greatest {label}")
    if quads is not None:
        by_voxels = {name: quads[name] - quads.get(f"{name}_by_sign", quads[name]) for name in FACES}
        why = {"gained": " by born voxels", "lost": " as voxels lack", "turned": ""}
        lines += _rows("quads", [(quads[name], _WORDS.get(name, name) + (
            f", {by_voxels[name]:,}{why[name]}" if by_voxels[name] else "")) for name in FACES])
    return "\n".join(lines)


_WORDS = {"spoiled": "became NaN", "flipped": "sign flipped", "sdf": "SDF changed", "same": "as before",
          "outward": "now outside", "inward": "now inside", "healed": "numbers again", "touched": "touched at all",
          "turned": "turned over"}


def _rows(head: str, counts: list[tuple[int, str]]) -> list[str]:
    return [f"{'' if place else head:<9}{number:>12,}  {words}" for place, (number, words) in enumerate(counts)]


def table_of(found: Changes, threshold: float) -> dict[str, np.ndarray]:
    """Every voxel that isn't as before, corner that flipped or became (or ceased to be) NaN, and quad that came, went
    or turned, as columns: kind (n,) uint8, an index of kinds, such as "voxel born", "corner outward", "quad lost"; ijk
    (n, 3) of the voxel, the corner, or the edge's lower corner, of pruned voxels on the lattice before, else on that
    after; axis (n,) of edges, else −1; d_deform, d_sdf (n,) in voxel widths (of voxels the greatest of their corners),
    NaN where unknown."""
    kinds, parts = [], []

    def add(kind: str, ijk: np.ndarray, axis: Any = -1, deform: Any = None, sdf: Any = None) -> None:
        n, nan = len(ijk), np.float32(math.nan)
        kinds.append(kind)
        parts.append((np.full(n, len(kinds) - 1, np.uint8), ijk.astype(np.int32),
                      np.broadcast_to(np.asarray(axis, np.int8), n),
                      *(np.full(n, nan) if values is None else values for values in (deform, sdf))))

    of_common = found.parts_of_common(threshold)
    for part in PARTS[:-1]:
        voxels, rows = found.rows(part, threshold)
        chosen = of_common == PARTS.index(part)
        known = (found.voxel_deform, found.voxel_sdf) if part not in ("born", "pruned") else (None, None)
        values = [None if each is None else each[chosen] for each in known]
        add(f"voxel {part}", voxels.voxel_ijk.numpy()[rows], -1, *values)
    corner_ijk = found.b.voxels.corner_ijk.numpy()
    for name, bit in CORNER_BITS.items():
        if bit != CHANGED:
            chosen = found.corners(bit)
            values = [None if each is None else each[chosen] for each in (found.d_deform, found.d_sdf)]
            add(f"corner {name}", corner_ijk[found.corner_b[chosen]], -1, *values)
    for name in FACES if found.gained is not None else ():
        add(f"quad {name}", *edges_of(getattr(found, name), found.b.voxels.resolution))
    names = ("kind", "ijk", "axis", "d_deform", "d_sdf")
    columns = {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}
    return {"kinds": np.array(kinds), **columns}


def write_lists(found: Changes, threshold: float, path: Path) -> str:
    """Writes table_of as .csv or .npz, whole or not at all, and says so in a line. Raises ValueError for another type,
    OSError where it can't be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown type {path.suffix!r}; allowed are {', '.join(SUFFIXES)}")
    table = table_of(found, threshold)
    part = path.with_name(path.name + ".part")
    part.write_bytes(_npz(table) if path.suffix.lower() == ".npz" else _csv(table))
    part.replace(path)
    return f"{path}: {len(table['kind']):,} changed voxels, corners and quads"


def _npz(table: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **table)
    return content.getvalue()


def _csv(table: dict[str, np.ndarray]) -> bytes:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["kind", "i", "j", "k", "axis", "d_deform", "d_sdf"])
    kinds = table["kinds"].tolist()
    columns = [table[name].tolist() for name in ("kind", "ijk", "axis", "d_deform", "d_sdf")]
    for kind, (i, j, k), axis, *values in zip(*columns, strict=True):
        far = ["" if math.isnan(value) else f"{value:.7g}" for value in values]
        writer.writerow([kinds[kind], i, j, k, "xyz"[axis] if axis >= 0 else "", *far])
    return content.getvalue().encode()
