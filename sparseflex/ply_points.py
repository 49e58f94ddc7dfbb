"""The header of a .ply, and columns of its vertices: ascii, binary of either byte order, as the file declares them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np

__all__ = ["Column", "Element", "Header", "header_of", "vertex_columns"]

_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
          "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
          "float32": "f4", "float64": "f8"}
_ORDER = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 1 << 20
_LARGEST_COUNT = 1 << 48  # rows; more is no file


@dataclasses.dataclass(frozen=True)
class Column:
    """A property of an element; type: numpy's name without byte order, empty for a list."""

    name: str
    type: str


@dataclasses.dataclass(frozen=True)
class Element:
    name: str
    count: int
    columns: tuple[Column, ...]

    @property
    def has_list(self) -> bool:
        return any(not column.type for column in self.columns)

    @property
    def row_bytes(self) -> int:
        """Of a row in a binary file; lists not counted."""
        return sum(np.dtype(column.type).itemsize for column in self.columns if column.type)


@dataclasses.dataclass(frozen=True)
class Header:
    """format: ascii, binary_little_endian or binary_big_endian. n_bytes: where the data begins."""

    format: str
    elements: tuple[Element, ...]
    n_bytes: int

    def element(self, name: str) -> Element | None:
        return next((element for element in self.elements if element.name == name), None)


def header_of(path: Path) -> Header:
    """Reads the header alone. Raises ValueError, in one line without the path, for what is none."""
    with open(path, "rb") as file:
        if file.readline(16).strip() != b"ply":
            raise ValueError("not a readable .ply (the first line must be ply)")
        lines: list[list[str]] = []
        while True:
            line = file.readline(_LONGEST_HEADER)
            if not line.endswith(b"\n") or file.tell() > _LONGEST_HEADER:
                raise ValueError("not a readable .ply (its header has no end_header)")
            words = line.decode("latin-1").split()
            if words == ["end_header"]:
                break
            lines.append(words)
        return _parse(lines, file.tell())


def _parse(lines: list[list[str]], n_bytes: int) -> Header:
    kind = ""
    elements: list[tuple[str, int, list[Column]]] = []
    for words in lines:
        match words:
            case ["format", kind, "1.0"] if kind in _ORDER:
                pass
            case ["element", name, count] if count.isdecimal() and len(count) < 20 and int(count) < _LARGEST_COUNT:
                elements.append((name, int(count), []))
            case ["property", "list", size, item, name] if elements and size in _TYPES and item in _TYPES:
                elements[-1][2].append(Column(name, ""))
            case ["property", item, name] if elements and item in _TYPES:
                elements[-1][2].append(Column(name, _TYPES[item]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise ValueError(f"not a readable .ply (its header says {' '.join(words)[:80]!r})")
    if kind not in _ORDER:
        raise ValueError("not a readable .ply (its header names no format)")
    for name, _, columns in elements:
        if len({column.name for column in columns}) < len(columns):
            raise ValueError(f"not a readable .ply (element {name} has two properties of one name)")
    return Header(kind, tuple(Element(name, count, tuple(columns)) for name, count, columns in elements), n_bytes)


def vertex_columns(path: Path, header: Header, names: tuple[str, ...]) -> np.ndarray:
    """(V, len(names)) float64: these properties of the vertices, of which the header must have all.

    Raises ValueError, without the path, for a file that ends too early or can't be read.
    """
    place = next(row for row, element in enumerate(header.elements) if element.name == "vertex")
    before, vertices = header.elements[:place], header.elements[place]
    if vertices.has_list:
        raise ValueError("not a readable .ply of points (a vertex has a list among its properties)")
    read = _ascii_columns if header.format == "ascii" else _binary_columns
    return read(path, header, before, vertices, names)


def _binary_columns(
    path: Path, header: Header, before: tuple[Element, ...], vertices: Element, names: tuple[str, ...]
) -> np.ndarray:
    if any(element.has_list and element.count for element in before):
        raise ValueError("not a readable .ply of points (lists before the vertices)")
    order = _ORDER[header.format]
    row = np.dtype([(column.name, order + column.type) for column in vertices.columns])
    start = header.n_bytes + sum(element.count * element.row_bytes for element in before)
    there = max(path.stat().st_size - start, 0) // row.itemsize
    if there < vertices.count:
        raise ValueError(f"is truncated: {vertices.count} points are declared, {there} are there")
    rows = np.memmap(path, row, mode="r", offset=start, shape=(vertices.count,))
    columns = np.empty((vertices.count, len(names)))
    with np.errstate(invalid="ignore"):  # a signalling NaN
        for k, name in enumerate(names):
            columns[:, k] = rows[name]
    return columns


def _ascii_columns(
    path: Path, header: Header, before: tuple[Element, ...], vertices: Element, names: tuple[str, ...]
) -> np.ndarray:
    have = [column.name for column in vertices.columns]
    least = 2 * len(have) * vertices.count - 1  # a digit and what parts it from the next
    if path.stat().st_size - header.n_bytes < least:
        raise ValueError(f"is truncated: {vertices.count} points are declared, too few bytes follow")
    with open(path, "rb") as file:
        file.seek(header.n_bytes)
        text = io.TextIOWrapper(file, encoding="latin-1")
        for _ in range(sum(element.count for element in before)):
            if not text.readline():
                raise ValueError("is truncated: it ends before its points")
        try:
            columns = np.loadtxt(text, comments=None, usecols=[have.index(name) for name in names], ndmin=2,
                                 max_rows=vertices.count)
        except ValueError as error:
            raise ValueError(f"not a readable .ply ({(str(error) or 'ValueError').splitlines()[0][:200]})") from None
    if len(columns) < vertices.count:
        raise ValueError(f"is truncated: {vertices.count} points are declared, {len(columns)} are there")
    return columns
