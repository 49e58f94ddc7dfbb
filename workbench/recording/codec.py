"""How values lie in the payload: a JSON header that names arrays by place, and the arrays, compressed without loss.

A value is None, a number, a text, an array, or a list or a dictionary (with text keys) of values. Nothing in it is ever
executed or imported; whatever breaks a rule raises ValueError.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8")
MAX_HEADER_BYTES = 1 << 26
MAX_ARRAY_BYTES = 1 << 34
MAX_DEPTH = 32
_LEVEL = 1
_LEAST_BYTES = 64  # below that compressing costs more than it saves

_ARRAY = "array"  # {"array": [dtype, shape, codec, start, n_bytes, crc]}; other dictionaries are {"map": {...}}
_MAP = "map"
_FLOAT = "float"  # {"float": "nan"}: JSON has no such numbers

Store = Callable[[np.ndarray], list]
"""Puts an array into the payload; gives [dtype, shape, codec, start, n_bytes, crc]."""

Fetch = Callable[[int, int], bytes]
"""The bytes of the payload from a start on, so many of them."""


def pack_array(array: np.ndarray) -> tuple[str, bytes]:
    """(codec, bytes): "raw", "zip", "bits" (packed booleans), "shuffle" (bytes by significance), or "delta" (of rising
    integers, shuffled), all but the first deflated."""
    array = np.ascontiguousarray(array)
    if array.nbytes < _LEAST_BYTES:
        return "raw", array.tobytes()
    if array.dtype.kind == "b":
        return "bits", zlib.compress(np.packbits(array.reshape(-1)).tobytes(), _LEVEL)
    if array.dtype.itemsize == 1:
        return "zip", zlib.compress(array.tobytes(), _LEVEL)
    flat = array.reshape(-1)
    if array.dtype.kind == "i" and flat[0] <= flat[-1]:
        # wraps around where it overflows, and back again when summed
        return "delta", zlib.compress(_shuffled(np.diff(flat, prepend=flat.dtype.type(0))), _LEVEL)
    return "shuffle", zlib.compress(_shuffled(flat), _LEVEL)


def _shuffled(flat: np.ndarray) -> bytes:
    return flat.view(np.uint8).reshape(-1, flat.dtype.itemsize).T.tobytes()


def unpack_array(dtype: str, shape: list[int], codec: str, packed: bytes) -> np.ndarray:
    """The array, read-only; ValueError where the bytes aren't what the rest says."""
    kind = np.dtype(dtype)
    count = math.prod(shape)
    n_bytes = count * kind.itemsize
    if n_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"an array must have at most {MAX_ARRAY_BYTES} bytes, got {n_bytes}")
    stored = -(-count // 8) if codec == "bits" else n_bytes
    if codec == "raw":
        plain = packed
    else:
        inflate = zlib.decompressobj()
        try:
            plain = inflate.decompress(packed, stored + 1)  # no more than that, whatever the bytes say
        except zlib.error as error:
            raise ValueError(f"compressed bytes are damaged: {error}") from None
    if len(plain) != stored:
        raise ValueError(f"an array must have {stored} bytes, got {len(plain)}")
    if codec == "bits":
        array = np.unpackbits(np.frombuffer(plain, np.uint8), count=count).astype(bool)
    elif codec in ("shuffle", "delta"):
        rows = np.frombuffer(plain, np.uint8).reshape(kind.itemsize, count)
        array = np.ascontiguousarray(rows.T).view(kind).reshape(-1)
        if codec == "delta":
            array = np.cumsum(array, dtype=kind)
    else:
        array = np.frombuffer(plain, kind)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def header_of(value: Any, store: Store) -> bytes:
    """The header of a value, its arrays stored on the way; ValueError for what can't be kept."""
    return json.dumps(_described(value, store, 0), allow_nan=False, separators=(",", ":")).encode()


def _described(value: Any, store: Store, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"a value must be nested at most {MAX_DEPTH} deep")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, np.generic):
        return _described(value.item(), store, depth)
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        if little.dtype.str not in DTYPES:
            raise ValueError(f"an array's type must be one of {', '.join(DTYPES)}, got {value.dtype.str}")
        return {_ARRAY: store(little)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"a dictionary's keys must be text, got {key!r}")
        return {_MAP: {key: _described(item, store, depth + 1) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_described(item, store, depth + 1) for item in value]
    raise ValueError(f"a value must be made of numbers, texts, arrays, lists and dictionaries, got {type(value)}")


def value_of(header: bytes, fetch: Fetch) -> Any:
    """The value that a header describes. ValueError where a rule is broken."""
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a header must have at most {MAX_HEADER_BYTES} bytes, got {len(header)}")
    try:
        described = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a header must be JSON: {error}") from None
    return _read(described, fetch, 0)


def _read(described: Any, fetch: Fetch, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"a value must be nested at most {MAX_DEPTH} deep")
    if described is None or isinstance(described, (bool, int, float, str)):
        return described
    if isinstance(described, list):
        return [_read(item, fetch, depth + 1) for item in described]
    if isinstance(described, dict) and len(described) == 1:
        (kind, content), = described.items()
        if kind == _FLOAT and content in ("nan", "inf", "-inf"):
            return float(content)
        if kind == _MAP and isinstance(content, dict):
            return {key: _read(item, fetch, depth + 1) for key, item in content.items()}
        if kind == _ARRAY:
            return _fetched(content, fetch)
    raise ValueError(f"a header's item must be a value, got {str(described)[:60]!r}")


def _fetched(place: Any, fetch: Fetch) -> np.ndarray:
    good = isinstance(place, list) and len(place) == 6 and place[0] in DTYPES and isinstance(place[1], list)
    good = good and place[2] in ("raw", "zip", "bits", "shuffle", "delta")
    numbers = [*place[1], *place[3:]] if good else []
    if not good or not all(type(number) is int and number >= 0 for number in numbers) or len(place[1]) > 8:
        raise ValueError(f"an array must be [type, shape, codec, start, bytes, crc], got {str(place)[:60]!r}")
    dtype, shape, codec, start, n_bytes, crc = place
    packed = fetch(start, n_bytes)
    if len(packed) != n_bytes or zlib.crc32(packed) != crc:
        raise ValueError(f"the bytes of an array at {start} are damaged")
    return unpack_array(dtype, shape, codec, packed)
