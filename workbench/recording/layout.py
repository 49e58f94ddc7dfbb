"""The layout of a recording: names, tables and the rules that both the writer and the reader keep to."""

from __future__ import annotations

import numpy as np

SCHEMA = "sparseflex-recording"
VERSION = 1

PAYLOAD, ENTRIES, SCALARS, SCALAR_NAMES, COMMITS = "payload", "entries", "scalars", "scalar_names", "commits"
"""The datasets, all of them made before single-writer-multiple-reader mode begins, and only ever appended to."""

META = "meta"
"""Attribute of the file: JSON text, see recordings/README.md."""

PAYLOAD_CHUNK = 1 << 20
ROWS_CHUNK = 1024
NAME_BYTES = 64
SPARE_SCALARS = 64
"""Columns of the scalar table beyond those that the run has when the recording begins; more are left out."""

ENTRY = np.dtype([("iteration", "<i8"), ("stream", "<i4"), ("crc", "<u4"), ("start", "<i8"), ("n_bytes", "<i8")])
"""One value of one stream: start and n_bytes place its header in the payload, crc is the header's CRC-32."""

COMMIT = np.dtype([("iteration", "<i8"), ("secs", "<f8"), ("n_entries", "<i8"), ("n_scalars", "<i8"),
                   ("n_names", "<i8"), ("n_payload", "<i8"), ("addition", "<i8")])
"""Written last, once all that it counts is in the file: the iteration that has ended, seconds since the recording
began, and how long each of the other datasets is with it.

A commit of an iteration replaces all of it and after it that was committed before: the run went back and took another
way. addition 1: it adds to the commit before it, which is of the same iteration, as a keyframe taken later does."""

STATE, CAMERAS, CHANGES, HITS = "/state", "/cameras", "/changes", "/hits"
"""Streams beside the run's fields; the slash keeps them apart from field names."""
OWN_STREAMS = (STATE, CAMERAS, CHANGES, HITS)
