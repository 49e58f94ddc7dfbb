"""Makes the copies of the VAE's reference data that tests need: `python tests/golden/thin.py REFERENCE_FOLDER`.

Of large arrays every k-th row stays, and the name ends in _every<k>, as it does in the reference data itself. Weights
are not copied: tests/vae_weights.py makes them. up<i>_kept are the bits of up<i>_logits ≥ 0, for all rows.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STEPS = {
    "tiny/inputs": {},
    "tiny/encoder": {"pointnet_in": 4, "pointnet_block0_first512": 4, "pointnet_block4_first512": 4, "pc_feats": 4,
                     "x_in": 16, "block0": 16, "block1": 16, "after_layernorm": 16},
    "tiny/encoder_batch2": {"pc_feats": 4},
    "tiny/decoder_trunk": {"x_in": 16, "block0": 16, "block1": 16},
    "tiny/decode_whole_prune": {"feats": 8, "up0_h": 32, "up1_h": 64, "up1_kept_coords": 4},
    "tiny/decode_whole_prune_trainmesh": {},
    "tiny/decode_whole_train_logits": {"up1_coords": 4, "up1_logits": 4, "feats": 128},
    "tiny/decode_whole_noprune": {"coords": 4, "feats": 64, "faces": 8},
    "tiny/decode_official_chunked_prune": {"feats": 16, "up0_logits": 4, "up1_logits": 16},
    "tiny/decode_official_chunked_noprune": {"coords": 4, "feats": 64, "faces": 8},
    "full_width/golden": {"pc_feats": 32, "trunk": 64, "up0_logits": 2, "up0_coords": 4, "up1_coords": 8,
                          "up1_logits": 4, "feats": 64},
}
"""Every how manieth row of the whole array stays, by file and array; all of those not named."""


def thin(arrays: dict[str, np.ndarray], steps: dict[str, int]) -> dict[str, np.ndarray]:
    found = {}
    for name, array in arrays.items():
        plain, had = re.fullmatch(r"(.*?)(?:_every(\d+))?", name).groups()
        step, had = steps.get(plain, 0), int(had or 1)
        if step % had:
            raise ValueError(f"{name}: every {step}th row can't be had of every {had}th")
        found[f"{plain}_every{step}" if step else name] = array[:: step // had] if step else array
        if step and plain in ("up0_logits", "up1_logits"):
            found[plain.replace("logits", "kept")] = np.packbits(array.reshape(-1) >= 0)
    return found


if __name__ == "__main__":
    for name, steps in STEPS.items():
        with np.load(Path(sys.argv[1]) / f"{name}.npz") as data:
            np.savez_compressed(HERE / f"{name}.npz", **thin(dict(data), steps))
