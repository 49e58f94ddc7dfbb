"""Recordings: a run written to an HDF5 file as it goes, and read back; recordings/README.md has the format."""
