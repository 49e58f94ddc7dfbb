"""`workbench export`: files for other programs from a recording, a checkpoint, a scene or a mesh."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import tyro

from workbench.inputs import InputError


@dataclasses.dataclass(frozen=True)
class Export:
    """Write mesh (.ply .glb .obj), voxels, corners, fields (.npz), scalars (.csv) or cameras (.json); never trains."""

    what: tyro.conf.Positional[str]
    """A recording (.h5), a checkpoint, a scene's name or .toml, a mesh, or my_run.py:make_run."""
    to: tuple[Path, ...]
    """Files to write; each one's ending says what goes in. A .json is a transforms.json of the cameras."""
    iteration: int | None = None
    """Of a recording: which one, its last where not given."""
    mesh: Literal["auto", "surface", "section", "target"] = "auto"
    """Which mesh: the whole surface, what the last section gave, or the target; auto is the surface, and before the
    first iteration the target."""
    colour: str = ""
    """Colours of the mesh's vertices: normal, error (the distance to the target), or a field of corners or voxels, as
    corner_sdf."""
    part: str = ""
    """Of a field with several columns: which, as the window names them (length, mean, x, corner 3 …)."""
    range: tuple[float, float] | None = None
    """Values that the colour map's ends stand for; from the values where not given."""
    input_frame: bool = False
    """Write meshes in the frame of the input file, not in the normalised one."""
    up: Literal["y", "z"] | None = None
    """Up axis of the mesh file."""

    def run(self) -> int:
        from workbench.export import SUFFIXES, MeshChoice, export
        from workbench.moment import open_moment

        self._check(SUFFIXES)
        moment = open_moment(self.what, self.iteration, self.up, "cpu")
        for note in moment.notes:
            print(f"{moment.name}: {note}", file=sys.stderr)
        choice = MeshChoice(self.mesh, self.colour, self.part, self.range, self.input_frame)
        for path in self.to:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                print(export(moment, path, choice))
            except ValueError as error:
                raise InputError(" ".join(str(error).split())) from error
            except OSError as error:
                raise InputError(f"--to {path}: can't be written ({error.strerror or error})") from None
        return 0

    def _check(self, suffixes: tuple[str, ...]) -> None:
        """What is known to fail fails before anything is opened or written."""
        if not self.to:
            raise InputError("--to must name at least one file, got none")
        for path in self.to:
            if path.suffix.lower() not in suffixes:
                raise InputError(f"--to {path}: unknown type {path.suffix!r}; allowed are {', '.join(suffixes)}")
        if self.part and not self.colour:
            raise InputError("--part goes with --colour FIELD")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise InputError(f"--range must be LOW < HIGH, got {self.range[0]:g} {self.range[1]:g}")
