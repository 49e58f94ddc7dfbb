"""Textures: images that panels show, kept on the graphics card as floating quantities of Polyscope."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyscope as ps
import polyscope.imgui as psim
from jaxtyping import Float

from workbench.worker import same_token


class Textures:
    """One texture a name; what comes from the same source as last time (see same_token) is not sent again."""

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def show(self, name: str, source: Any, pixels: Float[np.ndarray, "H W 3"] | None) -> Any:
        """ImGui's reference to the texture; where pixels is None it stays as it is."""
        if pixels is not None and not self.is_shown(name, source):
            rgba = np.ones((*pixels.shape[:2], 4), np.float32)
            rgba[..., :3] = pixels
            if self._shapes.get(name) == rgba.shape:
                ps.get_quantity_buffer(name, "colors").update_data(rgba.reshape(-1, 4))
            else:
                ps.add_color_alpha_image_quantity(
                    name, rgba, enabled=False, show_fullscreen=False, show_in_imgui_window=False
                )
            self._shown[name], self._shapes[name] = source, rgba.shape
        return psim.ImTextureRef(ps.get_quantity_buffer(name, "colors").get_texture_native_id())

    def has(self, name: str) -> bool:
        """Whether there is anything to show under a name."""
        return name in self._shown

    def is_shown(self, name: str, source: Any) -> bool:
        return name in self._shown and same_token(self._shown[name], source)
