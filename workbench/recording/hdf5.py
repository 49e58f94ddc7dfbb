"""Opens an HDF5 file for reading while another process may write it, so that a damaged one can't make HDF5 wait."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

import h5py

READ_ATTEMPTS = 22
"""How often HDF5 reads metadata again whose checksum is wrong, as it is while they are being written. It waits twice as
long each time, from a nanosecond on: a few milliseconds in all, where its own number of 100 would never end."""

_NAME = "H5Pset_metadata_read_attempts"


def open_for_reading(path: Path) -> h5py.File:
    """In single-writer-multiple-reader mode, without a cache of chunks: those that grow would be stale in it."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
    access.set_cache(0, 0, 0, 0.0)
    access.set_file_locking(True, True)  # none where the file system has no locks
    limit = _read_attempts()
    if limit is not None:
        limit(access.id, READ_ATTEMPTS)
    flags = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


@functools.lru_cache(maxsize=1)
def _read_attempts() -> Callable[[int, int], int] | None:
    """HDF5's own function, which h5py doesn't hand on; None where the library that h5py has loaded isn't found."""
    for library in _libraries():
        try:
            found = getattr(ctypes.CDLL(str(library)), _NAME)
        except (OSError, AttributeError):
            continue
        found.argtypes, found.restype = [ctypes.c_int64, ctypes.c_uint], ctypes.c_int
        return found
    return None


def _libraries() -> list[Path]:
    """The libraries of HDF5 that this process may have loaded."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        paths = {line.split(maxsplit=5)[5] for line in maps.read_text("utf-8", "replace").splitlines()
                 if len(line.split(maxsplit=5)) == 6}
        return sorted(Path(path) for path in paths if "hdf5" in Path(path).name and "_hl" not in Path(path).name)
    package = Path(h5py.__file__).parent
    folders = (package, package.parent / "h5py.libs", package / ".dylibs")
    return [path for folder in folders for path in sorted(folder.glob("*hdf5*")) if "_hl" not in path.name]
