"""Embed: a recipe within the PNG (or SVG) that it made, and out of it again."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY = "sparseflex-recipe"
_DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
MAX_SVG_BYTES = 1 << 28


def save_png(path: Path, pixels: UInt8[np.ndarray, "H W 4"], recipe_text: str, dpi: int) -> None:
    """Writes the picture with its recipe as a text chunk; opaque ones without alpha. Raises OSError."""
    info = PngInfo()
    info.add_itxt(KEY, recipe_text, zip=True)
    image = Image.fromarray(pixels if (pixels[..., 3] < 255).any() else np.ascontiguousarray(pixels[..., :3]))
    image.save(path, "PNG", pnginfo=info, dpi=(dpi, dpi))


def recipe_of(path: Path) -> str:
    """The recipe's text within a picture. Raises FileNotFoundError, or ValueError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    found = _of_svg(path) if path.suffix.lower() == ".svg" else _of_png(path)
    if not found:
        raise ValueError(f"{path}: has no recipe within; `workbench figure` and the window's F write such pictures")
    return found


def _of_png(path: Path) -> str | None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # text may stand behind the pixels
            return str(image.text.get(KEY, "")) or None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: can't be read as a PNG: {' '.join(str(error).split())}") from None


def _of_svg(path: Path) -> str | None:
    if path.stat().st_size > MAX_SVG_BYTES:
        raise ValueError(f"{path}: must have at most {MAX_SVG_BYTES} bytes, got {path.stat().st_size}")
    text = path.read_text("utf-8", errors="replace")
    found = re.search(r"<metadata>.*?</metadata>", text, re.DOTALL)
    if found is None or "<!ENTITY" in found[0]:
        return None
    try:
        element = next(ElementTree.fromstring(found[0]).iter(_DESCRIPTION), None)
    except ElementTree.ParseError:
        return None
    return None if element is None else element.text
