"""The layers stay layers and the library stays light: contracts, ruff, sizes, and what an import brings along."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES, MAX_FUNCTION_LINES = 400, 60


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


def test_import_contracts_hold():
    done = run(program("lint-imports"), "--no-cache")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_ruff_has_nothing_to_say():
    done = run(program("ruff"), "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_library_needs_torch_numpy_and_jaxtyping_alone():
    heavy = ("scipy", "trimesh", "polyscope", "workbench", "tyro", "tqdm", "h5py", "PIL", "spconv", "skimage")
    code = "import sys, torch, numpy, jaxtyping; before = set(sys.modules); import sparseflex; "
    code += f"print([m for m in {heavy!r} if m in sys.modules and m not in before])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


def test_help_does_not_wait_for_torch():
    code = "import sys, workbench.cli; print([m for m in ('torch', 'polyscope', 'sparseflex') if m in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


def modules() -> list[Path]:
    return sorted([*ROOT.glob("sparseflex/**/*.py"), *ROOT.glob("workbench/**/*.py")])


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_house_style(path):
    """A first line that tells the purpose, files and functions of a size that can be read, no broad except unmarked."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert (ast.get_docstring(tree) or "").strip(), "the file's first line must tell its purpose"
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} has too many lines"


def test_each_heavy_package_has_few_users():
    """polyscope is touched by the window's modules alone, nvdiffrast and spconv by one each."""
    users = {name: set() for name in ("polyscope", "nvdiffrast", "spconv")}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.split(".")[0] in users:
                    users[name.split(".")[0]].add(str(path.relative_to(ROOT)))
    assert all(user.startswith("workbench/") for user in users["polyscope"])
    assert len(users["nvdiffrast"]) <= 1 and len(users["spconv"]) <= 1
