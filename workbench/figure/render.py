"""Render: the scene of a panel as pixels, drawn by the same SceneView as the window's, without one."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sparseflex.camera import Camera
from workbench.figure.prepare import Pose, Ready
from workbench.figure.recipe import MAX_PIXELS
from workbench.graphics import start_polyscope
from workbench.inputs import InputError


def draw_scene(ready: Ready, pose: Pose, width: int, height: int, supersampling: int) -> UInt8[np.ndarray, "H W 4"]:
    """The panel's scene, width x height pixels, each the mean of supersampling² samples; nothing is drawn where nothing
    is: alpha 0. Raises NoGraphics, and InputError for more samples than OpenGL draws at once."""
    crop = ready.panel.camera.crop or (0.0, 0.0, 1.0, 1.0)
    whole = [supersampling * side / (crop[2 + axis] - crop[axis]) for axis, side in enumerate((width, height))]
    if max(whole) > MAX_PIXELS:
        raise InputError(f"a panel's side x supersampling, of the whole view where it is cropped, must be at most "
                         f"{MAX_PIXELS} pixels, got {round(max(whole))}")
    samples = _samples(ready, pose, round(whole[0]), round(whole[1]), width / height)
    left, top = round(crop[0] * whole[0]), round(crop[1] * whole[1])
    left, top = min(left, samples.shape[1] - width * supersampling), min(top, samples.shape[0] - height * supersampling)
    part = samples[top : top + height * supersampling, left : left + width * supersampling]
    return averaged(part, supersampling)


def _samples(
    ready: Ready, pose: Pose, width: int, height: int, aspect: float
) -> UInt8[np.ndarray, "height width 4"]:
    start_polyscope("SparseFlex figure", headless=True)
    import polyscope as ps

    from workbench.scene_view import SceneView

    view, scene = ready.view, SceneView()
    ps.set_window_size(width, height)
    ps.set_background_color((1.0, 1.0, 1.0, 0.0))
    fov = _set_projection(pose)
    ps.set_view_center_raw(tuple(pose.centre.tolist()))  # a view before would be felt else: clipping goes by it
    ps.look_at_dir(pose.eye, pose.centre, pose.up)
    view.view_camera = Camera.look_at(pose.eye.tolist(), pose.centre.tolist(), pose.up.tolist(), fov_y_degrees=fov,
                                      width=256, height=256)
    try:
        scene.update(ready.snapshot, view)
        scene.arrange(view, aspect)
        return ps.screenshot_to_buffer(transparent_bg=True)
    finally:
        scene.clear()
        ps.set_view_projection_mode("perspective")


def _set_projection(pose: Pose) -> float:
    """Sets Polyscope's projection; its orthographic view is as high as 4 tan(fov / 2) length scales."""
    import polyscope as ps

    fov = pose.fov_y_degrees
    if pose.orthographic:
        fov = math.degrees(2 * math.atan(pose.height_world / 4))
    ps.set_view_projection_mode("orthographic" if pose.orthographic else "perspective")
    ps.set_vertical_fov_degrees(fov)
    return fov


def averaged(samples: UInt8[np.ndarray, "H_s W_s 4"], factor: int) -> UInt8[np.ndarray, "H W 4"]:
    """Each factor x factor block as one pixel: its mean alpha, and the mean colour of what is there."""
    # weighted by alpha ("RGBa") while it is averaged, all of it in Pillow: a tenth of the time that numpy takes
    image = Image.fromarray(np.ascontiguousarray(samples)).convert("RGBa")
    return np.asarray(image.reduce(factor).convert("RGBA"))
