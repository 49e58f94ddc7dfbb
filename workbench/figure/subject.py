"""Subjects: what the panels of a recipe show, as snapshots of a run: opened, fitted first, or read from a recording."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sparseflex.scene import scene_names
from workbench.figure.recipe import Panel, SourceTable
from workbench.inputs import InputError, Opened, input_errors, network_file, open_what, scene_folders
from workbench.moment import Moment, of_opened, open_moment
from workbench.snapshot import Snapshot, frozen

RECORDING = ".h5"

NamesFor = Callable[[int, Snapshot], frozenset[str]]
"""The fields that the source of a number must give, given a snapshot that tells what there is."""


def gather(sources: Sequence[SourceTable], folder: Path, names_for: NamesFor) -> list[Snapshot]:
    """A snapshot of each source, with the fields that are needed of it; equal ones are opened, and fitted, once.

    folder: what paths are relative to. Raises InputError.
    """
    found: dict[int, Snapshot] = {}
    groups: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        groups.setdefault(_same_run(source), []).append(number)
    for numbers in groups.values():
        # in the order in which a fit comes by
        numbers.sort(key=lambda number: (sources[number].iteration, number))
        source = sources[numbers[0]]
        what = _located(source.path, folder)
        opened = None if what.endswith(RECORDING) else _open(what, source, folder)
        for number in numbers:
            wanted = sources[number].iteration
            if opened is None:
                moment = open_moment(what, None if wanted < 0 else wanted)
            else:
                _advance(opened, what, wanted)
                moment = of_opened(opened)
            found[number] = _snapshot(moment, number, names_for)
    return [found[number] for number in range(len(sources))]


def earlier(panel: Panel, folder: Path, where: str) -> SourceTable:
    """The panel's source as it was at iteration changes.since. Raises InputError where it doesn't hold both."""
    source, since = panel.source, panel.changes.since
    what = _located(source.path, folder)
    if not what.endswith(RECORDING):
        if source.network:
            raise InputError(f"{where}: changes needs two states, and a pass over {source.path} leaves one: record "
                             "several passes and name the recording")
        if not _is_fresh(what):
            raise InputError(f"{where}: changes needs two states, and {source.path} holds one: name a recording of "
                             "the run, or the mesh or scene that it fits")
        if source.iteration < 0:
            raise InputError(f"{where}: changes needs source.iteration, as far as {source.path} is fitted, beside "
                             f"since = {since}")
        if not since < source.iteration:
            raise InputError(f"{where}: changes.since must be below source.iteration ({source.iteration}), as far as "
                             f"{source.path} is fitted, got {since}")
    return dataclasses.replace(source, iteration=since)


def _same_run(source: SourceTable) -> str:
    made_by = [source.network, dict(source.settings)] if source.network else []
    return json.dumps([source.path, source.up, dict(source.fit), *made_by], sort_keys=True, default=str)


def _located(path: str, folder: Path) -> str:
    """The file beside the recipe, or the name of a scene. Nothing that a recipe names is ever executed."""
    if path.rpartition(":")[0].endswith(".py") or path.endswith(".py"):
        raise InputError(f"source.path must not be a script, got {path!r}: record the run and name the recording")
    beside = folder / path
    if beside.exists():
        return str(beside)
    if path in scene_names(scene_folders()):
        return path
    raise InputError(f"source.path: {beside}: no such file, and no scene of that name")


def _open(what: str, source: SourceTable, folder: Path) -> Opened:
    if source.network:
        return _reconstructed(what, source, folder)
    return open_what(what, device="cpu", up=None if not _is_fresh(what) or source.up == "y" else source.up,
                     overrides=dict(source.fit))


def _reconstructed(what: str, source: SourceTable, folder: Path) -> Opened:
    """After one pass."""
    from workbench.headless import stop_on_signals
    from workbench.pass_headless import one_pass
    from workbench.reconstruction import Network, open_reconstruction

    if not _is_fresh(what):
        raise InputError(f"source.network goes with a mesh, a scene or a point cloud, got {what}")
    beside = folder / source.network
    network = Network(beside if beside.exists() else network_file(source.network))
    settings = {name: float(value) for name, value in source.settings.items()}
    opened = open_reconstruction(network, what, up=None if source.up == "y" else source.up, settings=settings)
    with stop_on_signals() as request:
        one_pass(opened.run, request, f"reconstruct {opened.name}")
        if request.signal_number is not None:
            raise KeyboardInterrupt
    return opened


def _advance(opened: Opened, what: str, wanted: int) -> None:
    """Fits on to the iteration, for sources without one of their own."""
    from workbench.headless import stop_on_signals, train

    run = opened.run
    if wanted < 0 or run.iteration == wanted:
        return
    if run.iteration > wanted or not _is_fresh(what):
        raise InputError(f"source.iteration must be {run.iteration}, where {what} stands, got {wanted}")
    with stop_on_signals() as request:
        train(run, wanted, request, f"fit {opened.name}")
        if request.signal_number is not None:
            raise KeyboardInterrupt


def _is_fresh(what: str) -> bool:
    """Whether it is a scene, a mesh or a point cloud, which a run can be made of, and no checkpoint."""
    return not (what.endswith(".safetensors") or (Path(what) / "checkpoint.safetensors").is_file())


def _snapshot(moment: Moment, number: int, names_for: NamesFor) -> Snapshot:
    bare = Snapshot(
        run_name=moment.name, iteration=moment.iteration, stages=("",), cameras=moment.cameras,
        history=moment.history, field_kinds=frozen(moment.kinds),
    )
    names = names_for(number, bare)
    with input_errors():  # a recording may be damaged
        fields = {name: moment.field(name) for name in sorted(names)}
    for name, older in sorted(moment.older.items()):
        if name in names:
            print(f"{moment.name}: {name} is of iteration {older}, the last before {moment.iteration} recorded",
                  file=sys.stderr)
    known = frozen({name: value for name, value in fields.items() if value is not None})
    return Snapshot(
        run_name=bare.run_name, iteration=bare.iteration, stages=bare.stages, cameras=bare.cameras,
        history=bare.history, field_kinds=bare.field_kinds, fields=known, asked=frozenset(names),
        field_iterations=frozen({name: older for name, older in moment.older.items() if name in known}),
    )
