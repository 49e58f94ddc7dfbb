"""`workbench reconstruct`: points through a SparseFlex VAE to a surface, in a window or headless."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from workbench.cli_break import BreakOptions
from workbench.cli_record import HeadlessRecordOptions
from workbench.inputs import InputError, Opened, choose_device, network_file, writable_folder

if TYPE_CHECKING:
    from workbench.cli import View

OUT = Path("recordings/reconstruct")
NETWORK_SUFFIXES = (".pt", ".pth", ".ckpt")
"""Files that hold the weights of a network, if anything: a run's checkpoint is a .safetensors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """What is said of the network and of what goes in, in `reconstruct` and in `view CHECKPOINT`."""

    other_shape: Annotated[str, tyro.conf.arg(name="other")] = ""
    """A second mesh, scene or point cloud: its latents are there to be mixed in."""
    config: Path | None = None
    """The release's YAML of the checkpoint's sizes; where not given those in the checkpoint, or the release's."""
    points: int | None = None
    """Points to sample from a mesh, or to pick from a larger point cloud; the config's number where not given."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the network's numbers; the surface is extracted in float32. Half precision needs CUDA."""


@dataclasses.dataclass(frozen=True)
class Reconstruct(ShapeOptions, BreakOptions, HeadlessRecordOptions):
    """Encode a shape's points into latents on sparse voxels and decode them to a surface: one pass of a SparseFlex VAE.
    workbench/docs/vae.md says where weights are published, and what to look at."""

    what: tyro.conf.Positional[str]
    """A mesh (.obj .ply .glb .off .stl), a scene's name or .toml, or a point cloud with normals (.ply .npz)."""
    checkpoint: Path
    """The weights: the release's .safetensors, the workbench's own, or a .pt, of which nothing is executed; tiny_vae is
    a small network that comes along."""
    headless: bool = False
    """No window: a progress bar, then mesh.ply, figure.png, metrics.json and checkpoint.safetensors."""
    out: Path | None = None
    """Folder for what is written; recordings/reconstruct/NAME where not given."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."""
    seed: int | None = None
    """Seed of the points, the posterior's samples and the noise."""
    resolution: int | None = None
    """Voxels of the latents along the longest side, the surface has four times as many; the config's if not given."""
    prune: bool = False
    """Prune children by their occupancy logits, though the config may say not to."""
    no_prune: bool = False
    """Keep all children of every voxel, whatever the config says."""
    threshold: tuple[float, float] | None = None
    """Prune, with these logits from which on a child is kept, at the first and at the second level; else 0 0."""
    sample_posterior: bool = False
    """Decode a sample of the latents' distribution instead of its mean."""
    noise: float | None = None
    """Noise to add to the latents, in units of each channel's own deviation."""
    interpolate: float | None = None
    """How far to go from this shape's latents, 0, to those of --other, 1."""
    chunk_voxels: int | None = None
    """Decode in chunks of so many voxels: less memory, the same result."""
    release_chunks: bool = False
    """Decode in overlapping chunks, each normalised on its own, as the public release does."""
    up: Literal["y", "z"] | None = None
    """Up axis of the file."""
    input_frame: bool = False
    """Write mesh.ply in the frame of the input file, not in the normalised one."""
    profile: bool = False
    """Run the pass under torch's profiler and write its trace as trace-1.json.gz; with --headless."""

    def run(self) -> int:
        from workbench.cli import require_graphics, show, warn
        from workbench.system_check import has_display

        if not self.headless and not has_display():
            raise InputError("reconstruct opens a window and there is no display: add --headless to do without one")
        if self.profile and not self.headless:
            raise InputError("--profile goes with --headless: in a window the Costs tab has it")
        self.check_breaks()
        require_graphics(display=not self.headless)
        device = choose_device(self.device)
        out = None if self.out is None else writable_folder(self.out)
        opened = self.with_breaks(open_with(self, self.what, self.checkpoint, device, self.settings()))
        out = out or writable_folder(OUT / opened.name)
        warn(opened)
        if not self.headless:
            return show(opened, out, paused=False, input_frame=self.input_frame, options=self)
        from workbench.pass_headless import reconstruct_headless

        return reconstruct_headless(opened, out, self.input_frame, self.recorder_headless(opened, out), self.profile)

    def settings(self) -> dict[str, float]:
        """The run's settings that were given, by its names for them; raises InputError for what can't go together."""
        if self.interpolate and not self.other_shape:
            raise InputError("--interpolate goes towards another shape: name it with --other")
        if self.no_prune and (self.prune or self.threshold is not None):
            raise InputError(f"--{'prune' if self.prune else 'threshold'} and --no-prune can't both be given")
        if self.chunk_voxels is not None and self.release_chunks:
            raise InputError("--chunk-voxels and --release-chunks can't both be given")
        if self.chunk_voxels is not None and self.chunk_voxels < 1:
            raise InputError(f"--chunk-voxels must be at least 1, got {self.chunk_voxels}")
        first, second = self.threshold or (None, None)
        prunes = 1 if self.prune or self.threshold is not None else None
        given = {
            "prune": 0 if self.no_prune else prunes, "threshold_1": first, "threshold_2": second,
            "sample_posterior": 1 if self.sample_posterior else None, "noise": self.noise,
            "interpolate": self.interpolate, "chunk_voxels": self.chunk_voxels,
            "release_chunks": 1 if self.release_chunks else None,
        }
        return {name: float(value) for name, value in given.items() if value is not None}


def open_with(command: Reconstruct | View, what: str, checkpoint: Path, device: str,
              settings: Mapping[str, float]) -> Opened:
    """The run of a command's options. Raises InputError."""
    from workbench.reconstruction import Network, open_reconstruction

    network = Network(network_file(checkpoint), command.config, command.resolution, device, command.dtype)
    return open_reconstruction(network, what, other=command.other_shape, n_points=command.points,
                               seed=command.seed or 0, up=command.up, settings=settings)


def is_network(what: str) -> bool:
    """Whether a file is a VAE's checkpoint: by its suffix, a .safetensors by its header."""
    what = str(network_file(what))
    if what.lower().endswith(NETWORK_SUFFIXES):
        return True
    if not what.lower().endswith(".safetensors"):
        return False
    from sparseflex.vae.weights import is_vae_checkpoint

    return is_vae_checkpoint(what)


def asks_for_network(view: View) -> bool:
    """Whether `view` is given the weights of a VAE; refuses options that don't go with what it is given."""
    if not is_network(view.what):
        given = {"mesh": view.mesh, "other": view.other_shape, "config": view.config, "points": view.points,
                 "dtype": view.dtype != "float32"}
        for name in (name for name, value in given.items() if value):
            why = ""
            if view.what.lower().endswith(".safetensors"):
                why = ", which holds none or is cut off" if Path(view.what).is_file() else ", and there is no such file"
            raise InputError(f"--{name} goes with the weights of a VAE, got {view.what}{why}")
        return False
    if view.beside:
        raise InputError(f"{view.what} holds the weights of a VAE, which can't be shown beside anything; a second "
                         "shape to mix with is --other")
    if not view.mesh:
        raise InputError(f"{view.what} holds the weights of a VAE: name a shape to reconstruct with --mesh")
    if view.start_resolution is not None:
        raise InputError("--start-resolution does not apply to the weights of a VAE")
    return True


def open_for_view(view: View) -> Opened:
    """The run that `view CHECKPOINT --mesh MESH` shows, before its first pass. Raises InputError."""
    return open_with(view, view.mesh, Path(view.what), choose_device(view.device), {})
