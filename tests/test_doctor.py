"""`workbench doctor`: it says what is there, what is missing and what mends it, and survives a GL that crashes."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from sparseflex.rasterize.nvdiffrast_backend import INSTALL_COMMAND
from sparseflex.sparse import spconv_backend
from workbench import doctor, graphics, system_check
from workbench.system_check import Need


@pytest.fixture
def quick(monkeypatch):
    """GL answers at once: the real probe takes a process each."""
    answers = {"openGL3_egl": (True, "a renderer"), "openGL3_glfw": (True, "a renderer")}
    monkeypatch.setattr(doctor, "probe_gl", lambda backend: answers[backend])
    return answers


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def test_report_names_everything(quick, capsys):
    assert doctor.report() == 0
    said = capsys.readouterr().out
    for name in ("Python", "torch", "polyscope", "libX11.so.6", "libEGL.so.1", "libGL.so.1", "an OpenGL driver",
                 "GL headless (EGL)", "GL window", "CUDA", "nvdiffrast", "spconv", "sparse convolutions",
                 "Xvfb", "xdotool", "scenes"):
        assert any(line.split(None, 1)[1].startswith(name) for line in said.splitlines() if " " in line.strip()), name


def test_json_holds_the_same(quick, capsys):
    assert doctor.report(as_json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is True
    assert {row["state"] for row in content["findings"]} <= {"ok", "missing", "optional"}
    assert [row["name"] for row in content["findings"]] == [finding.name for finding in doctor.examine()]


def test_a_missing_library_fails_and_names_the_command(quick, capsys, monkeypatch):
    lacking = Need("libEGL.so.1", lambda: False, {"apt-get": "libegl1"})
    monkeypatch.setattr(system_check, "WINDOW_NEEDS", (lacking,))
    monkeypatch.setattr(system_check, "package_manager", lambda: "apt-get")
    assert doctor.report() == 1
    said = capsys.readouterr().out
    assert "missing   libEGL.so.1" in said and "apt-get install -y libegl1" in said


def test_a_gl_that_crashes_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "GL_PROBE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert doctor.probe_gl("openGL3_egl") == (False, "the process died by signal 11")
    finding = {f.name: f for f in doctor._graphics()}["GL headless (EGL)"]
    assert finding.state == "missing" and finding.mend


def test_a_gl_that_hangs_or_complains_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_SECS", 0.5)
    monkeypatch.setattr(doctor, "GL_PROBE", "import time; time.sleep(60)")
    assert doctor.probe_gl("openGL3_egl") == (False, "no answer within 0.5 s")
    monkeypatch.setattr(doctor, "PROBE_SECS", 30.0)
    monkeypatch.setattr(doctor, "GL_PROBE", "raise RuntimeError('no such backend')")
    assert doctor.probe_gl("openGL3_egl") == (False, "RuntimeError: no such backend")


def test_the_real_probe_names_a_renderer():
    works, text = doctor.probe_gl("openGL3_egl")
    assert works and text


def test_without_a_display_the_window_is_optional(quick, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":4093")
    finding = findings()["GL window"]
    assert finding.state == "optional" and "DISPLAY=:4093 does not answer" in finding.text
    monkeypatch.delenv("DISPLAY")
    assert "--headless" in findings()["GL window"].text


def test_optional_extras_carry_their_commands(quick, monkeypatch):
    pip = f"{sys.executable} -m pip"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(spconv_backend, "is_usable", lambda: False)  # it would remember
    found = findings()
    assert found["spconv"].state == "optional" and found["spconv"].mend == f"{pip} install spconv-cu126"
    assert found["nvdiffrast"].mend == INSTALL_COMMAND.replace("pip install", f"{pip} install")
    assert found["nvdiffrast"].mend.startswith(pip) and "research" in found["nvdiffrast"].text
    monkeypatch.setitem(sys.modules, "sparseflex.rasterize.nvdiffrast_backend", None)
    assert findings()["nvdiffrast"].mend == "make install"


@pytest.mark.parametrize(
    ("cuda", "installed", "usable", "state", "said"),
    [
        (False, True, False, "ok", "torch (own) on the CPU"),
        (True, False, False, "ok", "torch (own) on CUDA"),
        (True, True, True, "ok", "spconv on CUDA"),
        (True, True, False, "optional", "torch (own) on CUDA: the spconv that is installed was not built for CUDA"),
    ],
)
def test_the_backend_of_sparse_convolutions_is_told(monkeypatch, cuda, installed, usable, state, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(spconv_backend, "is_usable", lambda: usable)
    (finding,) = doctor._convolutions()
    assert (finding.name, finding.state) == ("sparse convolutions", state) and finding.text.startswith(said)
    assert bool(finding.mend) == (state == "optional")


def test_a_package_that_is_not_installed_is_missing(quick, monkeypatch):
    real = doctor.importlib.metadata.version

    def version(name):
        if name == "polyscope":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    assert findings()["polyscope"].state == "missing" and doctor.report() == 1


def test_a_container_is_known_by_more_than_docker(monkeypatch, tmp_path):
    for name in ("CI", "container"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(system_check, "CONTAINER_FILES", ())
    monkeypatch.setattr(system_check, "CONTROL_GROUP_FILE", str(tmp_path / "cgroup"))
    assert not system_check.in_container()
    (tmp_path / "cgroup").write_text("0::/init.scope\n")
    assert not system_check.in_container()
    (tmp_path / "cgroup").write_text("1:name=systemd:/kubepods/pod1\n")
    assert system_check.in_container()
    (tmp_path / "cgroup").unlink()
    monkeypatch.setenv("container", "lxc")
    assert system_check.in_container()


def test_wayland_counts_as_a_display_where_its_socket_is(monkeypatch, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-7")
    assert not system_check.has_display()
    with pytest.raises(graphics.NoGraphics, match="no display: WAYLAND_DISPLAY=wayland-7 can't be opened; --headless"):
        graphics.check_graphics()
    (tmp_path / "wayland-7").touch()
    assert system_check.has_display()
    graphics.check_graphics()
