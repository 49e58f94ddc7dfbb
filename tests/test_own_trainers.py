"""Trainers of one's own: the documented example through the engine, the base it stands on, one line for each error."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from test_engine import StartEngine, ask, at_rest, start  # noqa: F401 - start is a fixture

from sparseflex.training.run import FieldKind, Run, Setting
from sparseflex.training.staged_run import StagedRun
from workbench.commands import ChangeSetting, NextIteration, RunIterations, StepBack
from workbench.inputs import RUN_ATTRIBUTES, InputError, open_what
from workbench.state_copies import copied

DOCS = Path(__file__).parent.parent / "workbench" / "docs"
EXAMPLE = DOCS / "my_run.py"


@pytest.fixture(autouse=True)
def same_modules() -> Iterator[None]:
    """What opening a file adds to Python's own tables goes with the test."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("own_run_"):
            del sys.modules[name]
    sys.path[:] = path


def opened(tmp_path: Path, text: str, function: str = "make_run") -> Run:
    file = tmp_path / "mine.py"
    file.write_text(text)
    return open_what(f"{file}:{function}").run


# -- the example ----------------------------------------------------------------------------------------------


def test_the_example_is_short_and_documented() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    told = (DOCS / "own_trainers.md").read_text()
    for name in (*RUN_ATTRIBUTES, *get_args(FieldKind), "extract()", "change_cameras", "StagedRun", "my_run.py"):
        assert re.search(rf"[`.]{re.escape(name)}[`(]", told), name


def test_the_example_trains_steps_back_and_shows_what_it_has(start: StartEngine) -> None:  # noqa: F811
    found = open_what(f"{EXAMPLE}:make_run")
    assert found.title == "a torus of one's own" and isinstance(found.run, Run)
    engine = start(found.run)
    engine.send(RunIterations(25))
    at_rest(engine, 25, "extract")
    shown = ask(engine, "voxels", "mesh", "corner_sdf", "error")
    losses = shown.history.column("loss")
    assert losses[-1] < 0.05 * losses[0] and shown.failure is None
    assert len(shown.fields["mesh"].faces) > 1000 and shown.fields["voxels"].n_voxels > 1000
    assert shown.fields["error"].shape == (shown.fields["voxels"].n_corners,)
    assert set(shown.stage_secs) == {"extract", "loss", "update"} and len(shown.cameras) == 1
    sdf = found.run.corner_sdf.detach().clone()
    for iteration in (24, 23):
        engine.send(StepBack())
        at_rest(engine, iteration, "extract")
    assert not torch.equal(found.run.corner_sdf, sdf)
    for iteration in (24, 25):
        engine.send(NextIteration())
        at_rest(engine, iteration, "extract")
    assert torch.equal(found.run.corner_sdf, sdf)
    assert ask(engine).history.column("loss").tolist() == losses.tolist()
    engine.send(ChangeSetting("lr", 0.5))
    assert engine.snapshots.wait_for(lambda s: s.notice, 20).notice == "lr must be in [0.0001, 0.1], got 0.5"


# -- the base -------------------------------------------------------------------------------------------------


class Counter(StagedRun):
    stages = ("add", "tell")

    def __init__(self) -> None:
        super().__init__(step=Setting(1.0, 0.0, 10.0))
        self.total = torch.zeros(2)
        self.layer = torch.nn.Linear(2, 2)
        self.kept = {"total": self.total, "layer": self.layer}

    def do_add(self) -> None:
        self.total += self.chosen["step"]

    def do_tell(self) -> dict:
        return {"total": self.total.sum().requires_grad_(), "twice": 2 * self.iteration}


def test_the_base_is_a_run() -> None:
    run = Counter()
    assert isinstance(run, Run) and run.cameras() == [] and run.read_field("nothing") is None
    with pytest.raises(ValueError, match="stage must be 'add', the next one, got 'tell'"):
        run.run_stage("tell")
    run.run_stage("add")
    run.change_setting("step", 3)  # holds from the next iteration on
    assert run.settings["step"].value == 3 and run.chosen["step"] == 1
    run.run_iteration()
    assert run.iteration == 1 and run.scalars() == {"total": 2.0, "twice": 0.0}
    run.run_iteration()
    assert run.scalars() == {"total": 8.0, "twice": 2.0}
    for name, value, message in (("step", 11, r"step must be in \[0, 10\], got 11"),
                                 ("size", 1, "setting must be one of step, got 'size'")):
        with pytest.raises(ValueError, match=message):
            run.change_setting(name, value)


def test_the_base_keeps_what_it_is_told_to() -> None:
    run = Counter()
    run.run_iteration()
    run.change_setting("step", 5)
    state = copied(run.state_dict())
    weight = run.layer.weight.detach().clone()
    run.run_iteration()
    with torch.no_grad():
        run.layer.weight += 1
    run.run_stage("add")
    other = Counter()
    for one in (run, other):
        one.load_state_dict(state)
        assert one.iteration == 1 and one.total.tolist() == [1, 1] and one.settings["step"].value == 5
        assert torch.equal(one.layer.weight, weight) and one.scalars() == {"total": 2.0, "twice": 0.0}
        one.run_iteration()
        assert one.total.tolist() == [6, 6]


# -- what can go wrong ----------------------------------------------------------------------------------------

WORKS = """
from sparseflex.training.staged_run import StagedRun
class Mine(StagedRun):
    stages = ("go",)
    def do_go(self): pass
"""


@pytest.mark.parametrize("text, function, message", [
    ("x = 1\ny = = 2\n", "make_run", r"mine.py, line 2, in import: SyntaxError: invalid syntax"),
    ("import no_such_module\n", "make_run", r"mine.py, line 1, in import: ModuleNotFoundError: No module named"),
    ("def make(): pass\nclass Net: pass\n", "make_run", r"mine.py: has no function 'make_run'; it has make, Net"),
    ("", "make_run", r"mine.py: has no function 'make_run'; it has none"),
    ("def part():\n    return 1 / 0\ndef make_run():\n    return part()\n", "make_run",
     r"mine.py, line 2, in make_run: ZeroDivisionError: division by zero"),
    ("import json\ndef make_run():\n    return json.loads('{')\n", "make_run",
     r"mine.py, line 3, in make_run: JSONDecodeError: Expecting"),
    ("def make_run(size): pass\n", "make_run", r"mine.py, line 1, in make_run: TypeError: .*'size'"),
    ("def make_run(): return object()\n", "make_run", r"make_run: what it returned is no run, it lacks name, stages"),
    (WORKS + "def make_run():\n    run = Mine()\n    run.fields = {'a': 'picture'}\n    return run\n", "make_run",
     "the kind of field 'a' must be one of voxels, voxel, corner, .*, got 'picture'"),
    (WORKS + "class Empty(Mine): stages = ()\n", "Empty", "stages must be a sequence of at least one name, got \\(\\)"),
    (WORKS + "class One(Mine): stages = 'go'\n", "One", "stages must be a sequence of at least one name, got 'go'"),
    (WORKS + "class Odd(Mine):\n    def fields(self): return {}\n", "Odd", "fields must be a mapping, got method"),
    (WORKS + "class Odd(Mine):\n    cameras = ()\n", "Odd", r"cameras must be a method, got \(\)"),
    (WORKS + "class Odd(Mine):\n    @property\n    def name(self): raise OSError('gone')\n", "Odd",
     r"mine.py, line 8, in Odd: OSError: gone"),
])
def test_one_line_says_what_is_wrong(tmp_path: Path, text: str, function: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        opened(tmp_path, text, function)
    assert "\n" not in str(caught.value)


def test_a_file_may_use_what_lies_beside_it_and_any_name(tmp_path: Path) -> None:
    (tmp_path / "beside_mine.py").write_text("stages = ('go',)\n")
    (tmp_path / "json.py").write_text(WORKS + "import beside_mine\nMine.stages = beside_mine.stages\n")
    before = sys.modules.get("json")
    assert open_what(f"{tmp_path / 'json.py'}:Mine").run.stages == ("go",)
    assert sys.modules.get("json") is before
    sys.modules.pop("beside_mine")
    with pytest.raises(InputError, match="none.py: no such file"):
        open_what(f"{tmp_path / 'none.py'}:make_run")
