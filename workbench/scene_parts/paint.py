"""Paint: own colours on a structure, changed in place: a million of them in 10 ms."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

_NAME = "colours"


def paint(structure: Any, colours: Float[np.ndarray, "n 3"] | None, **how: Any) -> None:
    """Gives a structure these colours, or none of its own; how: what its add_color_quantity takes besides."""
    known = getattr(structure, "n_painted", 0)
    n = 0 if colours is None else len(colours)
    if n and n == known:
        structure.get_quantity_buffer(_NAME, "colors").update_data(colours)
        return
    if known:
        structure.remove_quantity(_NAME)
    if n:
        structure.add_color_quantity(_NAME, colours, enabled=True, **how)
    structure.n_painted = n
