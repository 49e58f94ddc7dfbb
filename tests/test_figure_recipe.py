"""Recipes: what is read, refused and written; the page's layout; the recipe within a picture and out of it again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import change_view, check_view, coverage_view
from workbench.figure.embed import recipe_of, save_png
from workbench.figure.make import open_recipe
from workbench.figure.recipe import (
    CameraTable,
    ChangesTable,
    CoverageTable,
    CutTable,
    FrustumTable,
    LayerTable,
    Page,
    Panel,
    PlotTable,
    Recipe,
    SourceTable,
    SurfaceTable,
    WhatIfTable,
)
from workbench.figure.recipe_file import parse_recipe, read_recipe, recipe_text
from workbench.figure.text import width_of, wrapped
from workbench.inputs import InputError
from workbench.view_state import LAYERS

EXAMPLES = sorted((Path(__file__).parent.parent / "workbench" / "docs" / "figures").glob("*.toml"))
SOURCE = '[source]\npath = "house"\n'


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_recipes_and_come_back_from_their_canonical_text(path):
    recipe = read_recipe(path)
    text = recipe_text(recipe)
    assert parse_recipe(text, "canonical") == recipe
    assert recipe_text(parse_recipe(text, "canonical")) == text


def test_there_are_the_papers_figures():
    assert {path.stem for path in EXAMPLES} >= {"frustum", "resolution", "interior", "pruning"}


def test_panels_take_from_the_top_what_they_do_not_say():
    recipe = parse_recipe(SOURCE + """
iteration = 3
[layers]
active = true
mesh = {colour = "#102030"}
[[panels]]
caption = "one"
[[panels]]
source.iteration = 7
layers = {mesh = false, target = true}
""", "r")
    one, two = recipe.panels
    assert (one.source, two.source) == (SourceTable("house", 3), SourceTable("house", 7))
    assert one.layers == {"active": LayerTable(), "mesh": LayerTable("#102030")}
    assert two.layers == {"active": LayerTable(), "target": LayerTable()}
    assert (recipe.columns, recipe.rows) == (2, 1)


def test_a_panel_takes_a_finding_away_or_another_part_of_it():
    recipe = parse_recipe(SOURCE + """
[changes]
since = 3
threshold = 0.2
[surface]
[[panels]]
changes = false
surface = false
[[panels]]
changes.show = ["pruned", "born"]
""", "r")
    assert recipe.panels[0].changes is None and recipe.panels[0].surface is None
    assert recipe.panels[1].changes == ChangesTable(3, 0.2, ("born", "pruned"))
    assert recipe.panels[1].surface == SurfaceTable() and recipe.panels[1].coverage is None
    assert parse_recipe(recipe_text(recipe), "again") == recipe


def test_whole_numbers_and_fractions_are_one_recipe():
    texts = {recipe_text(parse_recipe(f"{SOURCE}[camera]\nfov_y_degrees = {number}\n", "r")) for number in (30, 30.0)}
    assert len(texts) == 1


@pytest.mark.parametrize(("text", "said"), [
    ("colour = 1", "unknown key 'colour'"),
    ("", "source.path must name a recording, a checkpoint, a mesh or a scene, got ''"),
    ("[source]\npath = 3", "path must be a text, got 3"),
    (SOURCE + "[page]\nwidth = -1", "width must be a whole number in [0, 16384], got -1"),
    (SOURCE + "[page]\nwidth = 99\nwidth_mm = 3", "width and width_mm must not both be given"),
    (SOURCE + "[page]\nwidth_mm = 0.1", "width must be in [16, 16384] pixels"),
    (SOURCE + "[page]\nsupersampling = 0", "supersampling must be a whole number in [1, 8], got 0"),
    (SOURCE + '[page]\nbackground = "red"', 'background must be \'transparent\' or "#RRGGBB", got \'red\''),
    (SOURCE + "[page]\ndpi = true", "dpi must be a whole number"),
    (SOURCE + "[camera]\neye = [0, 0, 1]", "eye and target must be given together"),
    (SOURCE + "[camera]\neye = [0, 0, 1]\ntarget = [0, 0, 1]", "eye and target must differ"),
    (SOURCE + "[camera]\ndirection = [0, 0, 0]", "direction must not be all 0"),
    (SOURCE + "[camera]\ndirection = [0, 0]", "direction must be 3 finite numbers"),
    (SOURCE + "[camera]\ndirection = [0, nan, 1]", "direction must be 3 finite numbers"),
    (SOURCE + "[camera]\ncrop = [0.5, 0, 0.4, 1]", "crop must be left < right and top < bottom in [0, 1]"),
    (SOURCE + "[camera]\nfov_y_degrees = inf", "fov_y_degrees must be in [1, 120], got inf"),
    (SOURCE + "[cut]\nnormal = []", "normal must be three numbers that are not all 0"),
    (SOURCE + "[layers]\nvoxels = true", "layers: unknown layer 'voxels'; allowed are active"),
    (SOURCE + "[layers]\nmesh = {size = 2}", "layers.mesh: size does not apply to this layer, got 2"),
    (SOURCE + "[layers]\nmesh = 1", "[layers.mesh] must be a table, got 1"),
    (SOURCE + "[ranges]\ncorner_sdf = [1, -1]", "ranges.corner_sdf must be low < high"),
    (SOURCE + "[colouring]\nmesh = 'rainbow'", "mesh must be one of clay, normal, field, distance, got 'rainbow'"),
    (SOURCE + "[frustum]\nnear = 2\nfar = 1", "near must be below far"),
    (SOURCE + "[plot]\nscalars = []", "scalars must name at least one scalar"),
    (SOURCE + "[changes]", "[changes]: since must be given: an iteration from 0, to compare with"),
    (SOURCE + "[changes]\nsince = 1.5", "since must be a whole number in [-1, 10000000], got 1.5"),
    (SOURCE + "[changes]\nsince = 1\nshow = ['new']", "show must be a list of some of born, pruned"),
    (SOURCE + "[changes]\nsince = 1\nshow = 'born'", "show must be a list of texts, got 'born'"),
    (SOURCE + "[changes]\nsince = 1\nthreshold = 2", "threshold must be in [0, 0.5], got 2"),
    ("changes = true\n" + SOURCE, "[changes] must be a table, got True"),
    (SOURCE + "[coverage]\nmark = 'unseen'", "mark must be one of never seen, orbit, zoom"),
    (SOURCE + "[coverage]\nvalues = 'loss'", "values must be one of seen_count, camera_count"),
    (SOURCE + "[coverage]\nvalues = 'seen_count'\nwithin = 3", "mark and within must not be given beside it"),
    (SOURCE + "[what_if]\ncategory = 'far'", "category must be one of active, outside, near_cut, far_cut, got 'far'"),
    (SOURCE + "[what_if.a]\nnear = 2\nfar = 1", "panel 1 [what_if.a]: near must be below far, got 2.0 and 1.0"),
    (SOURCE + "[what_if]\nb = {off = true}", "b.off must be false: A and B are two frusta"),
    (SOURCE + "[what_if]\na = 3", "[what_if.a] must be a table, got 3"),
    (SOURCE + "[surface]\nframe = [1, 2.5, 3]", "frame must be a voxel's i, j, k: whole numbers from 0"),
    (SOURCE + "[surface]\nshow = ['gaps']", "show must be a list of some of holes, turned, bad, got ['gaps']"),
    (SOURCE + "[source.fit]\nspeed = 1", "fit: unknown key 'speed'"),
    ("panels = []", "panels must be 1 to 64 tables"),
    ("[[panels", "not a recipe"),
    ("side_by_side = 1\n" + SOURCE, "side_by_side must be true or false, got 1"),
])
def test_refused_in_one_line_with_name_rule_and_value(text, said):
    with pytest.raises(ValueError) as error:
        parse_recipe(text, "r.toml")
    assert said in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("r.toml")


numbers = st.floats(-100, 100, allow_nan=False).map(lambda number: number + 0.0)
panels = st.builds(
    Panel,
    caption=st.text(max_size=20), legend=st.booleans(), scale_bar=st.floats(0, 4), scale_label=st.text(max_size=5),
    source=st.builds(SourceTable, path=st.text(min_size=1, max_size=9), iteration=st.integers(-1, 50),
                     fit=st.fixed_dictionaries({}, optional={"resolution": st.integers(4, 64)})),
    camera=st.builds(CameraTable, direction=st.one_of(st.just(()), st.tuples(numbers, numbers, st.just(1.0)))),
    cut=st.builds(CutTable, offset=st.floats(-2, 2), open=st.booleans()),
    layers=st.dictionaries(st.sampled_from(LAYERS), st.builds(LayerTable, st.sampled_from(["", "#A0B1C2"]))),
    ranges=st.dictionaries(st.text(max_size=6), st.just((-1.5, 2.0)), max_size=2),
    changes=st.one_of(st.none(), st.builds(
        ChangesTable, since=st.integers(0, 9), threshold=st.floats(0, 0.5),
        show=st.lists(st.sampled_from(change_view.LAYERS), max_size=4))),
    coverage=st.one_of(st.none(), st.builds(CoverageTable, mark=st.sampled_from(["never seen", "orbit", "near cut"]),
                                            within=st.integers(0, 9)),
                       st.builds(CoverageTable, values=st.sampled_from(coverage_view.QUANTITIES))),
    surface=st.one_of(st.none(), st.builds(SurfaceTable, show=st.lists(st.sampled_from(check_view.KINDS), max_size=2),
                                           frame=st.one_of(st.just(()), st.just((3.0, 0.0, 12.0))))),
    what_if=st.one_of(st.none(), st.builds(
        WhatIfTable, a=st.builds(FrustumTable, camera=st.integers(0, 3), near=st.sampled_from([0.0, 0.5])),
        b=st.builds(FrustumTable, eye=st.sampled_from([(), (1.0, 2.0, 3.0)])), halo=st.integers(0, 3))),
    plot=st.one_of(st.none(), st.builds(PlotTable, scalars=st.just(("loss",)), log=st.booleans())),
)


@settings(max_examples=120, deadline=None)
@given(st.builds(Page, title=st.text(max_size=20), columns=st.integers(0, 3)), st.lists(panels, min_size=1, max_size=3))
def test_any_recipe_comes_back_from_its_text(page, some):
    recipe = Recipe(page, tuple(some))
    text = recipe_text(recipe)
    assert parse_recipe(text, "r") == recipe
    assert recipe_text(parse_recipe(text, "r")) == text


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_one_line(text):
    try:
        parse_recipe(SOURCE + text, "r")
    except ValueError as error:
        assert "\n" not in str(error).strip()


def test_a_picture_holds_its_recipe(tmp_path):
    text = SOURCE + 'caption = "α = ½"\n'
    save_png(tmp_path / "a.png", np.full((4, 5, 4), 255, np.uint8), text, 300)
    assert recipe_of(tmp_path / "a.png") == text
    (tmp_path / "b.toml").write_text(SOURCE)
    assert open_recipe(tmp_path / "b.toml").panels[0].source.path == "house"


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_picture_is_told_in_one_line(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError) as error:
        open_recipe(tmp_path / "a.png")
    assert "a.png" in str(error.value) and "\n" not in str(error.value)


def test_a_picture_without_a_recipe_says_so(tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="has no recipe within"):
        open_recipe(tmp_path / "a.png")
    (tmp_path / "a.svg").write_text('<!DOCTYPE x [<!ENTITY a "b">]><svg><metadata>&a;</metadata></svg>')
    with pytest.raises(InputError, match="has no recipe within"):
        open_recipe(tmp_path / "a.svg")


def test_lines_fit_and_keep_every_word():
    text = "the voxels of a level before it is divided, what of their children is pruned, and what is left"
    lines = wrapped(text, 10.0, 150.0)
    assert " ".join(lines).split() == text.split() and len(lines) > 2
    assert all(width_of(line, 10.0) <= 150.0 for line in lines)
    assert wrapped("", 10, 10) == [] and wrapped("unbreakable", 10.0, 1.0) == ["unbreakable"]


def test_millimetres_at_a_resolution_are_pixels():
    page = Page(width_mm=25.4, height_mm=50.8, dpi=300)
    assert (page.pixel_width, page.pixel_height) == (300, 600)
    assert dataclasses.replace(page, font_pt=7.2).em == pytest.approx(30.0)
