"""MP4: frames as H.264 by the ffmpeg that imageio-ffmpeg brings, a program of its own; the same bytes every time."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

QUALITY = 16
"""x264's constant rate factor: about the least loss that can be seen nowhere."""

MAX_REPORT = 400
END_SECS = 120.0


class Mp4:
    """A file that frames are written to, all of one even size, fps of them a second; whole once closed.

    Raises OSError with ffmpeg's own words where it can't go on.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        if width % 2 or height % 2:
            raise ValueError(f"width and height must be even, got {width} x {height}")
        from imageio_ffmpeg import get_ffmpeg_exe

        self._path, self._shape = path, (height, width, 3)
        self._part = path.with_name(f".{path.name}.part")
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # one thread: how many there are would change the bytes; bitexact: neither times nor versions go in
        command = [
            get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24",
            "-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-an", "-vf",
            "scale=in_range=full:out_range=tv:out_color_matrix=bt709", "-c:v", "libx264",
            "-preset", "medium", "-crf", str(QUALITY), "-pix_fmt", "yuv420p", "-colorspace", "bt709",
            "-color_primaries", "bt709", "-color_trc", "iec61966-2-1", "-color_range", "tv", "-threads", "1",
            "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart",
            "-f", "mp4", str(self._part),
        ]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                             stderr=self._said)
        except OSError:
            self._said.close()
            raise

    def write(self, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """The next frame."""
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ValueError(f"a frame must be uint8 of shape {self._shape}, got {pixels.dtype} {pixels.shape}")
        try:
            self._process.stdin.write(np.ascontiguousarray(pixels).data)
        except OSError:
            raise self._failure() from None

    def close(self) -> None:
        """Ends the file and puts it into its place."""
        with contextlib.suppress(OSError):  # the exit code says more
            self._process.stdin.close()
        try:
            code = self._process.wait(END_SECS)
        except subprocess.TimeoutExpired:
            raise OSError(f"{self._path}: ffmpeg does not end") from None
        if code != 0:
            raise self._failure()
        self._said.close()
        self._part.replace(self._path)

    def abandon(self) -> None:
        """Ends ffmpeg and leaves no file, whatever has happened."""
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._said.close()
        self._part.unlink(missing_ok=True)

    def _failure(self) -> OSError:
        self._process.wait()
        self._said.seek(0)
        said = " ".join(self._said.read().decode(errors="replace").split())
        return OSError(f"{self._path} can't be written: {said[:MAX_REPORT] or 'ffmpeg gave no reason'}")


@contextlib.contextmanager
def mp4_file(path: Path, width: int, height: int, fps: int) -> Iterator[Mp4]:
    """An Mp4 that is closed at the end, and leaves nothing where something raises."""
    file = Mp4(path, width, height, fps)
    try:
        yield file
        file.close()
    except BaseException:
        file.abandon()
        raise
