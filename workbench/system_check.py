"""System libraries that the window needs, checked before anything can load them, by the standard library alone.

Without libEGL polyscope does not fail, it segfaults; so `make` calls this before anything else, and `workbench doctor`
says the same.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

MINIMUM_PYTHON = (3, 10)


@dataclasses.dataclass(frozen=True)
class Need:
    """One thing that must be there: `found()` says whether it is, `packages` what brings it, by package manager."""

    name: str
    found: Callable[[], bool]
    packages: dict[str, str]


def loads(soname: str) -> bool:
    """Whether the dynamic loader finds this library and all that it needs."""
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


DRIVER_PATTERNS = (
    "/usr/lib/*/dri/*_dri.so", "/usr/lib64/dri/*_dri.so", "/usr/lib/dri/*_dri.so",
    "/usr/lib/*/libgallium*.so*", "/usr/lib64/libgallium*.so*", "/usr/lib/libgallium*.so*",
)


def has_gl_driver() -> bool:
    """Whether Mesa's drivers (with the software one) are there, or NVIDIA's own."""
    if any(glob.glob(pattern) for pattern in DRIVER_PATTERNS) or os.path.isdir("/run/opengl-driver/lib"):
        return True
    return loads("libEGL_nvidia.so.0")


def has_venv() -> bool:
    """Whether `python -m venv` can work: Debian ships Python without ensurepip."""
    return importlib.util.find_spec("ensurepip") is not None and importlib.util.find_spec("venv") is not None


def has_program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


WINDOW_NEEDS = (
    Need("libX11.so.6", lambda: loads("libX11.so.6"),
         {"apt-get": "libx11-6", "dnf": "libX11", "pacman": "libx11", "zypper": "libX11-6"}),
    Need("libEGL.so.1", lambda: loads("libEGL.so.1"),
         {"apt-get": "libegl1", "dnf": "libglvnd-egl", "pacman": "libglvnd", "zypper": "libglvnd"}),
    Need("libGL.so.1", lambda: loads("libGL.so.1"),
         {"apt-get": "libgl1", "dnf": "libglvnd-glx", "pacman": "libglvnd", "zypper": "libglvnd"}),
    Need("an OpenGL driver", has_gl_driver,
         {"apt-get": "libgl1-mesa-dri", "dnf": "mesa-dri-drivers", "pacman": "mesa", "zypper": "Mesa-dri"}),
)
VENV_NEED = Need("Python's venv module", has_venv,
                 {"apt-get": "python3-venv", "dnf": "python3", "pacman": "python", "zypper": "python3"})
TEST_NEEDS = (
    Need("Xvfb", has_program("Xvfb"),
         {"apt-get": "xvfb", "dnf": "xorg-x11-server-Xvfb", "pacman": "xorg-server-xvfb",
          "zypper": "xorg-x11-server-Xvfb"}),
    Need("xdotool", has_program("xdotool"),
         {"apt-get": "xdotool", "dnf": "xdotool", "pacman": "xdotool", "zypper": "xdotool"}),
)
INSTALL_WORDS = {
    "apt-get": "install -y", "dnf": "install -y", "pacman": "-S --needed --noconfirm", "zypper": "install -y",
}


def missing(needs: tuple[Need, ...]) -> list[Need]:
    return [need for need in needs if not need.found()]


def package_manager() -> str | None:
    return next((name for name in INSTALL_WORDS if shutil.which(name)), None)


CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
CONTROL_GROUP_FILE = "/proc/1/cgroup"
CONTAINER_WORDS = ("docker", "kubepods", "containerd", "libpod", "lxc")


def in_container() -> bool:
    """Whether this is a container or a CI machine, where a root user may install without asking."""
    if any(os.path.exists(path) for path in CONTAINER_FILES) or os.environ.get("container"):  # noqa: SIM112
        return True
    if os.environ.get("CI", "").lower() in ("1", "true"):
        return True
    try:
        with open(CONTROL_GROUP_FILE, encoding="utf-8") as file:
            groups = file.read()
    except OSError:
        return False
    return any(word in groups for word in CONTAINER_WORDS)


def has_display() -> bool:
    """Whether a display is named and there: an X server that answers, or Wayland's socket.

    A name alone is often left over from another session.
    """
    wayland = os.environ.get("WAYLAND_DISPLAY")
    if wayland and os.path.exists(os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), wayland)):
        return True
    return bool(os.environ.get("DISPLAY")) and _x_answers()


def _x_answers() -> bool:
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XOpenDisplay.argtypes = [ctypes.c_char_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    display = x11.XOpenDisplay(None)
    if not display:
        return False
    x11.XCloseDisplay(display)
    return True


def install_command(needs: list[Need], manager: str | None) -> str:
    """The one command that brings what is missing, for this machine's package manager."""
    if manager is None:
        return "install, with this system's package manager: " + ", ".join(need.name for need in needs)
    packages = " ".join(dict.fromkeys(need.packages[manager] for need in needs))
    sudo = "" if os.geteuid() == 0 else "sudo "
    update = f"{sudo}apt-get update && " if manager == "apt-get" else ""
    return f"{update}{sudo}{manager} {INSTALL_WORDS[manager]} {packages}"


def install(needs: list[Need]) -> int:
    """Installs with apt-get, quietly; returns its exit code."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = [need.packages["apt-get"] for need in needs]
    print(f"installing system packages: {' '.join(packages)}", flush=True)
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        code = subprocess.run(["apt-get", *arguments], env=environment, stdout=subprocess.DEVNULL).returncode
        if code != 0 and arguments[0] == "install":
            return code
    return 0


def check(tests: bool = False, may_install: bool | None = None) -> int:
    """Checks, installs where it may, says what is missing. Returns the exit code: 0 where all is there.

    tests: ask for Xvfb and xdotool too; without them the window tests skip, so their lack is told and no error.
    may_install: None decides by being root in a container that has apt-get.
    """
    if sys.version_info < MINIMUM_PYTHON:
        print(f"Python must be 3.10 or newer, this one is {sys.version.split()[0]}; `make PYTHON=python3.11 …` takes "
              "another", file=sys.stderr)
        return 1
    if not sys.platform.startswith("linux"):
        return 0
    required = (*WINDOW_NEEDS, VENV_NEED)
    manager = package_manager()
    if may_install is None:
        may_install = manager == "apt-get" and os.geteuid() == 0 and in_container()
    lacking = missing(required + (TEST_NEEDS if tests else ()))
    if lacking and may_install:
        code = install(lacking)
        if code != 0:
            print(f"system packages were not installed (exit code {code}); run: {install_command(lacking, manager)}",
                  file=sys.stderr)
            return 1
        lacking = missing(tuple(lacking))
    optional = [need for need in lacking if need in TEST_NEEDS]
    needed = [need for need in lacking if need not in TEST_NEEDS]
    if needed:
        names = ", ".join(need.name for need in needed)
        print(f"missing on this system: {names}; run: {install_command(needed, manager)}", file=sys.stderr)
        return 1
    if optional:
        names = ", ".join(need.name for need in optional)
        print(f"the window tests will skip without {names}; to run them: {install_command(optional, manager)}",
              file=sys.stderr)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the system libraries that the workbench's window needs.")
    parser.add_argument("--tests", action="store_true", help="also what the window tests need: Xvfb and xdotool")
    parser.add_argument("--no-install", action="store_true", help="never install, only say what is missing")
    arguments = parser.parse_args()
    return check(tests=arguments.tests, may_install=False if arguments.no_install else None)


if __name__ == "__main__":
    sys.exit(main())
