"""Actions, palette, keys and preferences: everything by name or key, and what is kept between sessions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import polyscope.imgui as imgui
import pytest
from fake_ui import FakeUi

from sparseflex.camera import Camera
from workbench import actions, theme
from workbench.palette import matching
from workbench.panels import COLUMNS, keys, palette
from workbench.preferences import Preferences, kept
from workbench.ui import Ui
from workbench.view_state import LAYERS, ViewState
from workbench.window import Window

# what users of such tools expect, by workbench.md
CONVENTIONS = ("Space", "→", "Shift + →", "←", "Home", "End", "[", "]", "Tab", "G", "E", "F", "?", "Ctrl + P",
               "Ctrl + S")


class Keyboard:
    """ImGui's names of keys; those given are pressed, their modifiers down."""

    def __init__(self, *down: str) -> None:
        self._down = {getattr(imgui, "ImGuiKey_" + key) for key in down}

    def __getattr__(self, name: str) -> Any:
        return getattr(imgui, name)

    def IsKeyPressed(self, key: Any, repeat: bool = False) -> bool:  # noqa: N802 - ImGui's name
        return key in self._down

    IsKeyDown = IsKeyReleased = lambda self, key: key in self._down  # noqa: E731


def named(*down: str, typing: bool = False) -> list[str]:
    return [action.name for action in actions.pressed(Keyboard(*down), typing)]


def test_keys_do_what_they_say_and_modifiers_count() -> None:
    assert named("Space") == ["Play or pause"]
    assert named("RightArrow") == ["Next iteration"]
    assert named("RightArrow", "LeftShift") == ["Next stage"]
    assert named("P", "RightCtrl") == ["Run any command by name"] and named("P") == []
    assert named("Slash", "LeftShift") == ["List of keys"] and named("Slash") == []
    assert named("G", "LeftShift") == ["Target on or off"]  # no other meaning with Shift
    assert named("S") == [] and named("Space", "LeftCtrl") == []


def test_while_somebody_types_only_escape_counts() -> None:
    assert [name[:18] for name in named("G", "Space", "Escape", typing=True)] == ["Close what is open"]


def test_no_two_actions_share_a_name_or_a_key() -> None:
    names = [action.name for action in actions.ACTIONS]
    taken = [action.key for action in actions.ACTIONS if action.key]
    assert len(set(names)) == len(names) and len(set(taken)) == len(taken)
    for action in actions.ACTIONS:
        assert not action.key or hasattr(imgui, "ImGuiKey_" + action.key.split("+")[-1])


def test_the_list_of_keys_names_the_conventions_once_each() -> None:
    ui = FakeUi()
    keys.draw(ui)
    for key in CONVENTIONS:
        assert ui.texts.count(key) == 1


def test_matching_takes_words_in_any_order_and_puts_beginnings_first() -> None:
    names = ["Next iteration", "Save a figure", "Figure size"]
    assert matching("figure", names) == ["Figure size", "Save a figure"]
    assert matching("IT next", names) == ["Next iteration"]
    assert matching("", names) == names and matching("zebra", names) == []


def test_the_palette_runs_what_is_chosen() -> None:
    view = ViewState()
    view.palette.open()
    assert palette.draw(FakeUi(), view) is None and view.palette.shown and not view.palette.fresh
    view.palette.query = "light or"
    assert palette.draw(FakeUi({"Light or dark##0": True}), view) == "Light or dark" and not view.palette.shown
    view.palette.query = "zebra"
    ui = FakeUi()
    assert palette.draw(ui, view) is None and ui.says("No command")


def test_flips_and_layers_change_the_view_only() -> None:
    window = SimpleNamespace(view=ViewState(), snapshot=SimpleNamespace(playing=False))
    by_name = {action.name: action for action in actions.ACTIONS}
    assert by_name["Panels on or off"].does(window) is None and not window.view.show_panels
    by_name["Layer Mesh on or off"].does(window)
    assert not window.view.layers["mesh"]


def test_preferences_come_back_and_the_rest_does_not(tmp_path: Path) -> None:
    path = tmp_path / "config" / "window.json"
    view = ViewState()
    first = Preferences(path)
    first.load(view)
    first.save(view)
    assert not path.exists()  # nothing chosen, nothing written
    view.theme, view.scale, view.layers["mesh"], view.show_keys = "light", 1.1, False, True
    view.tabs["left"] = next(iter(COLUMNS["left"]))
    first.save(view)
    again = ViewState()
    Preferences(path).load(again)
    assert (again.theme, again.scale, again.layers["mesh"], again.show_keys) == ("light", 1.1, False, False)
    assert again.layers.keys() == dict.fromkeys(LAYERS).keys() and again.tabs["left"] == view.tabs["left"]
    assert not list(path.parent.glob("*.new"))


def test_home_and_the_next_session_stand_as_before_a_look_from_near_by() -> None:
    by_name = {action.name: action for action in actions.ACTIONS}
    for before in (True, False):
        view = ViewState(side_by_side=before)
        window = SimpleNamespace(view=view, _home_key=tuple, _ps=MagicMock(), go_home=MagicMock())
        for _ in range(2):
            Window.look_through(window, Camera.look_at((0.0, 0.0, 2.0), (0.0, 0.0, 0.0), width=8, height=8))
        assert not view.side_by_side and kept(view)["side_by_side"] is before
        by_name["Home view"].does(window)
        assert view.side_by_side is before and window.go_home.called


SPOILED = ("", "not json", "[1, 2]", '{"theme": 5, "layers": {"mesh": "yes", "x": true}, "a.b": 1}')


@pytest.mark.parametrize("text", SPOILED)
def test_spoiled_preferences_are_as_good_as_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "window.json"
    path.write_text(text)
    view = ViewState()
    Preferences(path).load(view)
    assert kept(view) == kept(ViewState())


def test_an_unwritable_place_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    preferences, view = Preferences(tmp_path / "file" / "window.json"), ViewState()
    preferences.load(view)
    view.scale = 1.3
    preferences.save(view)


def test_an_unknown_theme_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "window.json").write_text('{"theme": "sepia"}')
    view = ViewState()
    Preferences(tmp_path / "window.json").load(view)
    assert view.theme == "dark"


def test_both_themes_have_legible_text() -> None:
    def light(colour: theme.Colour) -> float:
        return sum(weight * channel**2.2 for weight, channel in zip((0.2126, 0.7152, 0.0722), colour, strict=True))

    for palette_ in theme.PALETTES.values():
        for text, back in ((palette_.text, palette_.panel), (palette_.muted, palette_.panel),
                           (palette_.text, palette_.raised), (palette_.on_accent, palette_.accent)):
            high, low = sorted((light(text), light(back)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.1, AA
    with pytest.raises(ValueError, match="theme must be one of dark, light, got 'sepia'"):
        theme.use("sepia")


def test_shortened_text_fits_the_room() -> None:
    ui: Ui = FakeUi()
    short = ui.shortened("x" * 1000, 280.0)
    assert short.endswith("…") and 7 * len(short) <= 280 < 7 * (len(short) + 1)
    assert ui.shortened("short", 280.0) == "short"
