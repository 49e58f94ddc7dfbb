"""How much memory a fit would take and how much there is, so that an absurd resolution is refused at once."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from sparseflex.mesh import Mesh

# measured on the six shapes and seven scanned meshes: 1.6 to 2.25 voxels within a quarter voxel of the surface for each
# voxel face of its area
VOXELS_PER_AREA = 2.2
# measured at 128³ and 200³: voxels, parameters and both moments of all, the graph of one iteration on the active ones
BYTES_PER_VOXEL = 1_100
BYTES_PER_ACTIVE_VOXEL = 2_600


def surface_area(mesh: Mesh) -> float:
    """Total area of the triangles, in squared world units."""
    corners = mesh.vertices.double()[mesh.faces]
    sides = corners[:, 1:] - corners[:, :1]
    return float(torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=1).sum() / 2)


def estimated_bytes(target: Mesh, resolution: int, visibility_ratio: float = 1.0) -> float:
    """About how many bytes a fit takes at its peak: voxels grow with area · resolution²."""
    try:
        side = float(resolution)
    except OverflowError:  # an integer beyond floating point
        side = math.inf
    n_voxels = min(VOXELS_PER_AREA * surface_area(target) * side * side, side * side * side)
    return n_voxels * (BYTES_PER_VOXEL + BYTES_PER_ACTIVE_VOXEL * visibility_ratio)


def available_bytes(device: torch.device | str = "cpu") -> float:
    """Memory that is free now: the device's, with what torch keeps of it for later, or the machine's within the limit
    of its control group."""
    device = torch.device(device)
    if device.type == "cuda":
        kept_for_later = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept_for_later)
    found = [float("inf")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found += [float(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines()
                  if line.startswith("MemAvailable:")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        found.append(float(limit.read_text()) - float(used.read_text()))
    return min(found)


def in_words(n_bytes: float) -> str:
    """Such as 3.2 GB; decimal units."""
    if not n_bytes < 1e24:
        return "more than a billion PB"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} PB"


def check_memory(
    target: Mesh, resolution: int, visibility_ratio: float = 1.0, device: torch.device | str = "cpu", where: str = ""
) -> None:
    """Raises ValueError that says the memory a fit would take, where it is more than there is."""
    wanted, there = estimated_bytes(target, resolution, visibility_ratio), available_bytes(device)
    if wanted > there:
        shown = resolution if resolution < 1e15 else f"of {len(str(resolution))} digits"
        raise ValueError(f"{where}resolution {shown} would take about {in_words(wanted)} of memory for this "
                         f"target at visibility_ratio {visibility_ratio:g}, and {in_words(there)} are available")
