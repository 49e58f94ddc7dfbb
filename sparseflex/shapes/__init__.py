"""Procedural target meshes: six shapes, each made to show one thing. Deterministic, and no file is read."""

from sparseflex.shapes.gallery import SHAPES, Shape, make_shape

__all__ = ["SHAPES", "Shape", "make_shape"]
