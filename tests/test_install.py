"""What a newcomer runs first: the system check, the Makefile, the pinned versions, and the fixtures of this suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import system_check
from workbench.system_check import TEST_NEEDS, VENV_NEED, WINDOW_NEEDS, Need, check, has_display, install_command

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bare(monkeypatch):
    """A machine that lacks libEGL and xdotool; what is run to install is noted, and works if `installs` is set."""
    state = {"installs": True, "ran": [], "there": False}

    def needs(group: tuple[Need, ...], lacking: str) -> tuple[Need, ...]:
        return tuple(Need(need.name, lambda lacks=need.name == lacking: state["there"] or not lacks, need.packages)
                     for need in group)

    def fake_run(command, **_):
        state["ran"].append(command)
        if "install" in command and state["installs"]:
            state["there"] = True
        return subprocess.CompletedProcess(command, 0 if state["installs"] else 100)

    monkeypatch.setattr(system_check, "WINDOW_NEEDS", needs(WINDOW_NEEDS, "libEGL.so.1"))
    monkeypatch.setattr(system_check, "TEST_NEEDS", needs(TEST_NEEDS, "xdotool"))
    monkeypatch.setattr(system_check, "VENV_NEED", needs((VENV_NEED,), "")[0])
    monkeypatch.setattr(system_check, "package_manager", lambda: "apt-get")
    monkeypatch.setattr(system_check, "in_container", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", fake_run)
    return state


def test_root_in_a_container_installs(bare, capsys):
    assert check(tests=True) == 0
    assert bare["ran"][0][:2] == ["apt-get", "update"]
    assert bare["ran"][1][-2:] == ["libegl1", "xdotool"]
    assert "installing system packages: libegl1 xdotool" in capsys.readouterr().out


def test_a_failed_installation_says_what_to_run(bare, capsys):
    bare["installs"] = False
    assert check() == 1
    assert "run: apt-get update && apt-get install -y libegl1" in capsys.readouterr().err


@pytest.mark.parametrize("why", ["not root", "no container", "told not to"])
def test_others_get_the_one_command_and_a_failure(bare, capsys, monkeypatch, why):
    if why == "not root":
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if why == "no container":
        monkeypatch.setattr(system_check, "in_container", lambda: False)
    assert check(may_install=False if why == "told not to" else None) == 1
    sudo = "sudo " if why == "not root" else ""
    said = capsys.readouterr().err
    command = f"{sudo}apt-get update && {sudo}apt-get install -y libegl1"
    assert said == f"missing on this system: libEGL.so.1; run: {command}\n"
    assert bare["ran"] == []


def test_what_only_tests_need_is_told_and_no_error(bare, capsys):
    bare["there"] = False
    bare_needs = tuple(need for need in system_check.WINDOW_NEEDS if need.found())
    system_check.WINDOW_NEEDS = bare_needs
    assert check(tests=True, may_install=False) == 0
    assert "the window tests will skip without xdotool; to run them: " in capsys.readouterr().err


def test_old_pythons_are_refused(bare, capsys, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert check() == 1
    assert "Python must be 3.10 or newer" in capsys.readouterr().err


@pytest.mark.parametrize(("manager", "command"), [
    ("apt-get", "apt-get update && apt-get install -y libx11-6 libegl1 libgl1 libgl1-mesa-dri"),
    ("dnf", "dnf install -y libX11 libglvnd-egl libglvnd-glx mesa-dri-drivers"),
    ("pacman", "pacman -S --needed --noconfirm libx11 libglvnd mesa"),
    (None, "install, with this system's package manager: libX11.so.6, libEGL.so.1, libGL.so.1, an OpenGL driver"),
])
def test_one_command_for_each_package_manager(monkeypatch, manager, command):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert install_command(list(WINDOW_NEEDS), manager) == command


def test_libraries_are_found_by_loading_them():
    assert system_check.loads("libc.so.6") and not system_check.loads("libnothing-of-this-name.so.9")


def test_runs_without_any_package():
    """As `make` runs it: the system's Python, isolated, before anything is installed."""
    script = ROOT / "workbench" / "system_check.py"
    done = subprocess.run([sys.executable, "-I", "-S", script, "--no-install"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("display", ["", ":4093"])
def test_a_display_that_does_not_answer_is_none(monkeypatch, display):
    monkeypatch.setenv("DISPLAY", display)
    assert not has_display()


# the Makefile and the pinned versions


def test_torch_is_pinned_and_everything_declared_is_too():
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==([^;\s]+)", (ROOT / "tests" / "constraints.txt").read_text(), re.M)
    names = {name.lower().replace("_", "-") for name, _ in pinned}
    assert dict(pinned)["torch"] == "2.13.0"
    declared = (ROOT / "pyproject.toml").read_text()
    tables = declared[declared.index("dependencies = ["):declared.index("[project.scripts]")]
    wanted = {name.lower() for name in re.findall(r'^  "([A-Za-z0-9_-]+)[><=]', tables, re.M)}
    assert wanted and wanted - {"spconv-cu126"} <= names


def test_each_python_gets_exactly_one_version():
    """Where a package has two lines, one is for Python 3.10 and the other for all newer ones."""
    lines = [line for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines() if "==" in line]
    by_name: dict[str, list[str]] = {}
    for line in lines:
        by_name.setdefault(line.split("==")[0], []).append(line.partition(";")[2].strip())
    for name, markers in by_name.items():
        old, new = 'python_version < "3.11"', 'python_version >= "3.11"'
        assert sorted(markers) in ([""], [old], [old, new]), name


def test_the_makefile_parses_and_ci_runs_make_test():
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "-m pytest" in done.stdout
    assert (ROOT / ".ci" / "run").read_text().rstrip().splitlines()[-1] == "make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# the suite's own fixtures


@pytest.mark.slow
def test_fixtures_catch_what_they_should(tmp_path):
    """In a process of its own: a leaked thread and a picture unlike its golden fail, a joined thread does not."""
    suite = tmp_path / "tests"
    suite.mkdir()
    for name in ("accelerator.py", "conftest.py", "goldens.py", "typecheck.py"):
        (suite / name).write_text((Path(__file__).parent / name).read_text())
    hasty = (suite / "conftest.py").read_text().replace("GRACE_SECS = 3.0", "GRACE_SECS = 0.1")
    (suite / "conftest.py").write_text(hasty)
    (suite / "test_it.py").write_text(
        "import threading, time\nimport numpy as np\n"
        "def sleep(): time.sleep(1.5)\n"
        "def test_joined(): t = threading.Thread(target=int); t.start(); t.join()\n"
        "def test_leaked(): threading.Thread(target=sleep, daemon=True, name='leaky').start()\n"
        "def test_golden(assert_matches_golden): assert_matches_golden(np.zeros((6, 8, 3)), 'g')\n"
        "def test_golden_off(assert_matches_golden): assert_matches_golden(np.eye(8)[:6], 'g')\n"
        "def test_checked():\n"
        "    import pytest, torch, jaxtyping, sparseflex as sf\n"
        "    camera = sf.Camera.look_at((0, 0, 2), (0, 0, 0))\n"
        "    with pytest.raises(jaxtyping.TypeCheckError): camera.depth_of('nothing')\n"
    )

    def pytest_run(*more: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", str(suite), *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout

    pytest_run("--update-golden", "-k", "test_golden and not off")
    assert (suite / "golden" / "pictures" / "g.png").exists()
    said = pytest_run()
    assert "1 failed, 4 passed, 1 error" in said, said[-2000:]
    assert "threads outlive the test: leaky" in said and "outliers" in said
    assert (tmp_path / "recordings" / "failed_pictures" / "g" / "diff.png").exists()
