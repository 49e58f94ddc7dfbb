"""Golden pictures: compare with a tolerance, and show expected | got | difference where they differ."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = Path(__file__).parent / "golden" / "pictures"
FAILED_PICTURES = Path(__file__).parent.parent / "recordings" / "failed_pictures"
AMPLIFICATION = 8


def as_rgba(image: np.ndarray | Path | str) -> np.ndarray:
    """Any of a path, uint8 or float [0, 1] array, grey (H, W), RGB or RGBA, as (H, W, 4) uint8."""
    if isinstance(image, str | Path):
        return np.asarray(Image.open(image).convert("RGBA"))
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(f"image must be (H, W), (H, W, 3) or (H, W, 4), got {image.shape}")
    if image.dtype != np.uint8:
        image = np.round(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    if image.ndim == 2:
        image = image[:, :, None]
    return np.asarray(Image.fromarray(image.squeeze()).convert("RGBA"))


def difference_picture(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """expected | got | amplified difference, side by side on white; sizes may differ."""
    height = max(expected.shape[0], got.shape[0])
    width = max(expected.shape[1], got.shape[1])
    panels = np.full((3, height, width, 4), 255, np.uint8)
    panels[0, : expected.shape[0], : expected.shape[1]] = expected
    panels[1, : got.shape[0], : got.shape[1]] = got
    gap = np.abs(panels[0].astype(int) - panels[1].astype(int)).max(-1, keepdims=True)
    panels[2, :, :, :3] = np.clip(gap * AMPLIFICATION, 0, 255)
    return np.concatenate(list(panels), axis=1)


@dataclasses.dataclass(frozen=True)
class GoldenPictures:
    """`assert_matches_golden(image, name)`: the fixture of conftest.py gives one of these.

    Two pictures of the same state are bit-identical on one machine; across GL drivers edges move by a fraction of a
    pixel. So a picture matches where at most `outliers` of its pixels differ by more than 24 of 255 in some channel and
    the mean difference is at most `mean` of 255. To make or renew goldens: `pytest --update-golden`,
    look at them, commit them.
    """

    update: bool
    out: Path

    def __call__(
        self, image: np.ndarray | Path | str, name: str, *, mean: float = 1.5, outliers: float = 0.01
    ) -> None:
        got = as_rgba(image)
        path = PICTURES / f"{name}.png"
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(got).save(path, optimize=True)
            return
        if not path.exists():
            raise AssertionError(f"there is no golden picture {path}; `pytest --update-golden` makes it")
        expected = as_rgba(path)
        if expected.shape != got.shape:
            said = f"size {got.shape[1]} x {got.shape[0]}, expected {expected.shape[1]} x {expected.shape[0]}"
        else:
            gap = np.abs(expected.astype(int) - got.astype(int))
            found_mean, found_outliers = float(gap.mean()), float((gap.max(-1) > 24).mean())
            if found_mean <= mean and found_outliers <= outliers:
                return
            said = f"mean difference {found_mean:.2f} of 255 (at most {mean}), "
            said += f"outliers {found_outliers:.2%} (at most {outliers:.2%})"
        diff = self.out / "diff.png"
        Image.fromarray(difference_picture(expected, got)).save(diff)
        kept = FAILED_PICTURES / name
        kept.mkdir(parents=True, exist_ok=True)
        Image.fromarray(got).save(kept / "got.png")
        shutil.copy(diff, kept / "diff.png")
        raise AssertionError(f"{name}: {said}; expected | got | difference × {AMPLIFICATION}: {kept / 'diff.png'}")
