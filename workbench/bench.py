"""`workbench bench`: speed and memory as measured on this machine, beside what is to be reached."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.inputs import InputError

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "benchmarks"
_PREFIX = "bench_"


def benchmark_names(folder: Path) -> list[str]:
    return sorted(path.stem.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*.py"))


def run_benchmarks(names: Sequence[str], as_json: bool, folder: Path = FOLDER) -> int:
    """Runs the named benchmarks, all where none is named, and prints a row for each number as soon as it is known.

    A number that misses what is to be reached is marked and no failure: the machine may be busy. A benchmark that can't
    run here gives a row that says why it was skipped, and the others go on. Raises InputError.
    """
    known = benchmark_names(folder)
    if not known:
        raise InputError("bench needs a checkout of the project: an installed package has no benchmarks")
    for name in names:
        if name not in known:
            raise InputError(f"no benchmark {name!r}; there are {', '.join(known)}")
    sys.path.insert(0, str(folder))
    collected = []
    try:
        for name in names or known:
            rows = rows_of(name)
            collected += [{"benchmark": name, **row} for row in rows]
            if not as_json:
                print(f"\n{name}")
                for row in rows:
                    print(row_text(row), flush=True)
    finally:
        sys.path.remove(str(folder))
    if as_json:
        print(json.dumps(collected, indent=1))
    return 0


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a benchmark, or one that says why it can't run on this machine."""
    try:
        return importlib.import_module(_PREFIX + name).rows()
    except Exception as error:  # noqa: BLE001 - whatever a benchmark lacks here, the others go on
        reason = " ".join(str(error).split()) or type(error).__name__
        return [{"name": f"skipped: {reason}", "value": None, "unit": "", "reach": "", "ok": None}]


def row_text(row: dict[str, Any]) -> str:
    """One line: name, value, unit, what is to be reached, and whether it is."""
    if row["value"] is None:
        return f"  {row['name']}"
    mark = {True: "ok", False: "missed", None: ""}[row["ok"]]
    return f"  {row['name']:<64}{row['value']:>10.3g} {row['unit']:<9} {row['reach']:<10} {mark}".rstrip()
