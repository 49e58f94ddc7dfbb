"""The codec of recordings: what goes in comes out bit by bit, and damaged or hostile bytes end in one ValueError."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from workbench.recording import codec


class Payload:
    """A payload in memory."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def store(self, array: np.ndarray) -> list:
        name, packed = codec.pack_array(array)
        start = len(self.bytes)
        self.bytes += packed
        return [array.dtype.str, list(array.shape), name, start, len(packed), zlib.crc32(packed)]

    def fetch(self, start: int, n_bytes: int) -> bytes:
        return bytes(self.bytes[start : start + n_bytes])

    def header(self, value: object) -> bytes:
        return codec.header_of(value, self.store)

    def value(self, header: bytes) -> object:
        return codec.value_of(header, self.fetch)


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = [np.zeros(0, np.float32), np.zeros((0, 3), np.int64), np.array(2.5), rng.random(1001) > 0.5,
             rng.random((37, 5)) > 0.5, rng.integers(0, 255, 999).astype(np.uint8), np.array([np.nan, -0.0, np.inf])]
    found += [rng.random((301, 3)).astype(kind) for kind in ("<f2", "<f4", "<f8")]
    wide = np.array([-(2**63), 2**63 - 1] * 50)
    found += [np.sort(rng.integers(0, 2**62, 500)), wide, wide[::-1], rng.integers(-(2**31), 2**31, 99, np.int32)]
    return found


@pytest.mark.parametrize("array", arrays(), ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_an_array_comes_back_bit_by_bit(array):
    payload = Payload()
    back = payload.value(payload.header(array))
    assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()
    assert not back.flags.writeable


def test_every_codec_is_used():
    assert {codec.pack_array(array)[0] for array in arrays()} == {"raw", "zip", "bits", "shuffle", "delta"}


def test_sorted_keys_and_flags_take_little_room():
    keys = np.unique(np.random.default_rng(0).integers(0, 64**3, 15_000))
    assert len(codec.pack_array(keys)[1]) < keys.nbytes / 4
    assert len(codec.pack_array(np.arange(15_000) % 7 == 0)[1]) < 15_000 / 8


def test_nested_values_come_back():
    payload = Payload()
    value = {"a": [1, 2.5, None, True, "π", {"map": 1, "array": [], "float": {}}], "b": {"c": float("inf")}, "": []}
    assert payload.value(payload.header(value)) == value
    assert np.isnan(payload.value(payload.header({"x": np.float32("nan")}))["x"])


@pytest.mark.parametrize("value", [{1: 2}, {"a": {3}}, object(), np.array(["text"]), np.array([1j]), b"bytes"])
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises(ValueError, match="must be"):
        Payload().header(value)


def test_too_deep_a_value_is_refused_both_ways():
    value: list = []
    for _ in range(codec.MAX_DEPTH + 2):
        value = [value]
    with pytest.raises(ValueError, match="nested at most"):
        Payload().header(value)
    for header in (b"[" * 40 + b"]" * 40, b"[" * 200_000 + b"]" * 200_000):
        with pytest.raises(ValueError, match="nested at most|must be JSON"):
            Payload().value(header)


@pytest.mark.parametrize(
    "place",
    [
        None, [], ["<f4", [2], "raw", 0, 8], ["|O8", [2], "raw", 0, 8, 0], ["<f4", [-2], "raw", 0, 8, 0],
        ["<f4", [2], "rot13", 0, 8, 0], ["<f4", [2.0], "raw", 0, 8, 0], ["<f4", [2], "raw", -8, 8, 0],
        ["<f4", [True], "raw", 0, 8, 0], ["<f4", [2], "raw", 0, 8, 1], ["<f4", [1] * 9, "raw", 0, 8, 0],
        ["<f4", [2**62, 2**62], "raw", 0, 8, zlib.crc32(bytes(8))],
        ["<f4", [3], "raw", 0, 8, zlib.crc32(bytes(8))], ["<f4", [2], "zip", 0, 8, zlib.crc32(bytes(8))],
    ],
)
def test_hostile_arrays_are_refused(place):
    payload = Payload()
    payload.bytes += bytes(8)
    with pytest.raises(ValueError, match="array|bytes"):
        payload.value(json.dumps({"array": place}).encode())


def test_a_bomb_is_not_inflated():
    payload = Payload()
    packed = zlib.compress(bytes(50_000_000))
    payload.bytes += packed
    place = ["|u1", [100], "zip", 0, len(packed), zlib.crc32(packed)]
    with pytest.raises(ValueError, match="must have 100 bytes, got 101"):
        payload.value(json.dumps({"array": place}).encode())


def test_every_flipped_byte_of_a_header_or_payload_is_told_or_harmless():
    payload = Payload()
    header = payload.header({"a": np.arange(50.0), "b": [1, "x"]})
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(header)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            payload.value(bytes(damaged))
        except ValueError as error:
            assert "\n" not in str(error)
    payload.bytes[10] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        payload.value(header)
