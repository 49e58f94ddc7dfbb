"""Panels: each `draw(ui, view, snapshot)` shows a part of a snapshot and returns the commands that it was used for."""
