"""`workbench doctor`: what works on this machine, and the command that mends what doesn't."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from typing import Literal

from workbench import system_check
from workbench.inputs import scene_folders

State = Literal["ok", "missing", "optional"]
PROBE_SECS = 60.0

# runs in a process of its own: a broken GL library can end it by a segfault, and then that is what doctor says
GL_PROBE = """
import ctypes, sys
import polyscope as ps
ps.set_use_prefs_file(False)
ps.set_verbosity(0)
ps.set_allow_headless_backends(True)
ps.init(sys.argv[1])
read = ctypes.CDLL("libGL.so.1").glGetString
read.restype = ctypes.c_char_p
print("renderer:" + ", ".join((read(name) or b"?").decode() for name in (0x1F01, 0x1F02)))
sys.stdout.flush()
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report. missing is required and fails the command; optional is absent and may stay so."""

    name: str
    state: State
    text: str
    mend: str = ""


def examine() -> list[Finding]:
    """All findings, cheap ones first."""
    findings = [_python(), *_packages(), _scenes(), *_libraries(), *_graphics(), _cuda(), *_extras()]
    return [*findings, *_convolutions(), *_programs()]


def report(as_json: bool = False) -> int:
    """Prints the findings; 0 where nothing required is missing, else 1."""
    findings = examine()
    failed = any(finding.state == "missing" for finding in findings)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"ok": not failed, "findings": rows}, indent=1))
        return int(failed)
    width = max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        print(f"{finding.state:<10}{finding.name:<{width}}{finding.text}")
        if finding.mend and finding.state != "ok":
            print(" " * (10 + width) + f"→ {finding.mend}")
    return int(failed)


def _python() -> Finding:
    good = sys.version_info >= system_check.MINIMUM_PYTHON
    text = f"{platform.python_version()}, {sys.executable}"
    return Finding("Python", "ok" if good else "missing", text, "install Python 3.10 or newer")


def _packages() -> list[Finding]:
    found = []
    for name in ("torch", "numpy", "scipy", "trimesh", "safetensors", "polyscope", "platformdirs", "tyro", "pyyaml"):
        try:
            found.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "missing", "not installed", "make install"))
    return found


def _scenes() -> Finding:
    n_scenes = sum(len(list(folder.glob("*.toml"))) for folder in scene_folders())
    return Finding("scenes", "ok" if n_scenes else "missing", f"{n_scenes} found", "make install")


def _libraries() -> list[Finding]:
    found = []
    manager = system_check.package_manager()
    for need in system_check.WINDOW_NEEDS if sys.platform.startswith("linux") else ():
        there = need.found()
        mend = "" if there else system_check.install_command([need], manager)
        found.append(Finding(need.name, "ok" if there else "missing", "found" if there else "not found", mend))
    return found


def probe_gl(backend: str) -> tuple[bool, str]:
    """Whether Polyscope starts with this backend, in a process of its own, and the renderer or what went wrong."""
    try:
        done = subprocess.run([sys.executable, "-c", GL_PROBE, backend], capture_output=True, text=True,
                              timeout=PROBE_SECS)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PROBE_SECS:g} s"
    renderer = [line for line in done.stdout.splitlines() if line.startswith("renderer:")]
    if renderer:  # what happens while it ends is no matter
        return True, renderer[-1].removeprefix("renderer:")
    if done.returncode < 0:
        return False, f"the process died by signal {-done.returncode}"
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return False, lines[-1].strip()[:200] if lines else f"exit code {done.returncode}"


def _graphics() -> list[Finding]:
    drivers = system_check.install_command(list(system_check.WINDOW_NEEDS), system_check.package_manager())
    works, text = probe_gl("openGL3_egl")
    found = [Finding("GL headless (EGL)", "ok" if works else "missing", text, drivers)]
    if not system_check.has_display():
        named = os.environ.get("DISPLAY")
        said = f"DISPLAY={named} does not answer" if named else "no display: everything works with --headless"
        mend = "set DISPLAY, or: xvfb-run -s '-screen 0 1920x1080x24' …"
        return [*found, Finding("GL window", "optional", said, mend)]
    works, text = probe_gl("openGL3_glfw")
    return [*found, Finding("GL window", "ok" if works else "missing", text, drivers)]


def _cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("CUDA", "optional", f"torch does not load: {error}", "make install")
    if not torch.cuda.is_available():
        version = torch.version.cuda
        text = f"built for CUDA {version}, no device" if version else "this torch is built for the CPU"
        return Finding("CUDA", "optional", text, "a CUDA device, and a torch built for it: see PyTorch's own page")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("CUDA", "ok", f"{torch.version.cuda}, {', '.join(names)}")


def _extras() -> list[Finding]:
    # with the Python that runs this, whichever environment is active
    pip = f"{sys.executable} -m pip"
    try:
        from sparseflex.rasterize.nvdiffrast_backend import INSTALL_COMMAND
    except (ImportError, OSError):  # without torch there is no use for it
        nvdiffrast = "make install"
    else:
        nvdiffrast = INSTALL_COMMAND.replace("pip install", f"{pip} install")
    extras = (
        ("nvdiffrast", "rasteriser for CUDA; licensed for research and evaluation only, not for commercial use",
         nvdiffrast),
        ("spconv", "sparse convolutions for CUDA", f"{pip} install spconv-cu126"),
    )
    found = []
    for name, use, command in extras:
        there = importlib.util.find_spec(name) is not None
        text = "installed" if there else f"not installed: {use}"
        found.append(Finding(name, "ok" if there else "optional", text, command))
    return found


def _convolutions() -> list[Finding]:
    """Which backend serves sparse convolutions on the best device that is here."""
    try:
        import torch

        from sparseflex.sparse import backend_name
    except (ImportError, OSError):  # told already
        return []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = backend_name(device)
    text = f"{backend if backend != 'torch' else 'torch (own)'} on {'CUDA' if device == 'cuda' else 'the CPU'}"
    if device == "cpu" or backend == "spconv" or importlib.util.find_spec("spconv") is None:
        return [Finding("sparse convolutions", "ok", text)]
    why = "the spconv that is installed was not built for CUDA, or does not load"
    mend = f"{sys.executable} -m pip install spconv-cu126"
    return [Finding("sparse convolutions", "optional", f"{text}: {why}", mend)]


def _programs() -> list[Finding]:
    found = []
    manager = system_check.package_manager()
    for need in system_check.TEST_NEEDS:
        there = need.found()
        text = "found" if there else "not found: the window tests skip"
        mend = "" if there else system_check.install_command([need], manager)
        found.append(Finding(need.name, "ok" if there else "optional", text, mend))
    return found
