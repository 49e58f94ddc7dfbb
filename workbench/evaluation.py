"""`workbench eval`: a mesh against a target, in the target's normalised frame."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sparseflex.data import LoadedMesh, load_mesh, transform_mesh
from sparseflex.mesh import Mesh
from sparseflex.quality import surface_quality
from sparseflex.scene import load_scene
from workbench.headless import plain, print_table
from workbench.inputs import input_errors, read_metrics, scene_folders

# of the voxel widths that chamfer_voxels is in, where no fit says another resolution
RESOLUTION = 64


def evaluate(predicted: str, target: str, frame: str, up: str | None, as_json: bool) -> int:
    """Prints the numbers; frame is auto, same or normalized (of PREDICTED). Raises InputError."""
    with input_errors():
        scene = load_scene(target, scene_folders(), up)
        written = read_metrics(Path(predicted).parent)
        if frame == "auto":
            frame = "normalized" if written.get("frame") == "normalized" else "same"
        # what a run wrote is turned already where it is normalised
        loaded = load_mesh(predicted, "y" if frame == "normalized" else up or "y")
    mesh = in_frame_of(loaded, scene.input_from_normalized, frame)
    config = written.get("config")
    resolution = config.get("resolution") if isinstance(config, dict) else None
    if not isinstance(resolution, int) or resolution < 1:  # another program's metrics.json, or none
        resolution = RESOLUTION
    row = surface_quality(mesh, scene.target, resolution)
    if as_json:
        print(json.dumps(plain({"frame": frame, "resolution": resolution, **row}), indent=1))
    else:
        print_table({Path(predicted).stem[:24]: row})
    return 0


def in_frame_of(loaded: LoadedMesh, input_from_normalized: torch.Tensor, frame: str) -> Mesh:
    """The loaded mesh in the target's normalised frame, whatever its own bounding box is."""
    as_in_file = loaded.input_from_normalized
    if frame == "same":
        as_in_file = torch.linalg.inv(input_from_normalized) @ as_in_file
    return transform_mesh(loaded.mesh, as_in_file)
