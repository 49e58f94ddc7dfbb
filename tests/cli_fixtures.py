"""What the tests of the command line share: a scene, no display, no pictures, and how a refusal looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparseflex import quality
from workbench import cli, headless
from workbench.headless import FIGURE

ROOT = Path(__file__).parent.parent
SMALL = '[target]\nshape = "cloth"\nfolds = 3\n[fit]\nresolution = 12\niterations = 4\nimage_size = 32\n'


@pytest.fixture
def no_display(monkeypatch, tmp_path):
    """No window, and recordings/ of the test's own."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def figures(monkeypatch):
    """Pictures are the business of test_scene_view.py, here one is noted; few samples and views keep quality quick."""
    asked = []
    monkeypatch.setattr(quality, "N_SAMPLES", 500)
    monkeypatch.setattr(quality, "N_VIEWS", 2)
    monkeypatch.setattr(headless, "write_figure", lambda opened, out: (asked.append(out), (out / FIGURE).touch()))
    return asked


@pytest.fixture
def scene(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    return "small.toml"


def refused(capsys, *arguments: str) -> str:
    """Runs the command, which must end with exit code 2 and one line on stderr; returns that line."""
    assert cli.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("workbench: ")
    return said.err.removeprefix("workbench: ").strip()
