"""Gradients: how much each term of the loss pulls and against which, where they go wrong, what pulls on a voxel."""

from __future__ import annotations

import math

import numpy as np

from sparseflex.training.backward_pass import BACKWARD, PARAMETERS
from sparseflex.training.gradient_regions import EXPLODING, N_EXPLODING, REASONS, VANISHING, Region
from workbench import theme
from workbench.colour_maps import Scale
from workbench.commands import Command, NextIteration, NextStage, StepBack
from workbench.gradient_view import PAGES
from workbench.gradient_work import Summary
from workbench.panels import gradient_pull
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count, packed
from workbench.view_state import ViewState

SMALL = 0.88
_RIVALS = -0.1
"""The cosine below which two terms count as pulling against each other."""
LABELS = {"sdf": "SDF", "deform": "δ", "weights": "α β γ"}
TIPS = ("By the SDF of the corners, in voxel widths", "By the deformation of the corners, three numbers before tanh",
        "By the 21 raw weights of a voxel: α, β and γ")
_PAGE_TIPS = ("How much each term of the loss pulls, which pull against each other, and how large gradients are",
              "Where gradients vanish or explode, and why", "What pulls on the picked voxel, and which pixels do")
_TERM_TIPS = {
    "depth": "L1 of the depth, over pixels hit in both", "normal": "L1 of the normals, over pixels hit in both",
    "mask": "L1 of the mask, over all pixels", "ssim": "1 − SSIM of the normals", "lpips": "LPIPS of the normals",
    "free_space": "Signs of corners that the target's view sees past", "dev": "L_dev of FlexiCubes",
    "sign": "Cross entropy across edges that change their sign",
}
_REASON_WORDS = {
    "bad parameter": "parameter not finite", "too large": "too large", "not finite": "gradient not finite",
    "cancelled": "seen, no pull", "unseen": "no pixel sees it", "no face": "surface without faces",
    "no surface": "no sign change",
}
REASON_TIPS = {
    "bad parameter": "An SDF, δ or weight of the voxel itself is NaN or infinite: the source of the others",
    "too large": f"More than {EXPLODING:g} times the median of the voxels that some pixel sees",
    "not finite": "The gradient is NaN or infinite though the voxel's parameters aren't: it comes from a neighbour\n"
                  "by a quad that both have, or from the loss",
    "cancelled": f"Pixels see its faces, and yet the gradient is below {VANISHING:g} of the median:\n"
                 "what they ask for cancels, or is reached",
    "unseen": "It has faces, but no pixel of this iteration sees them: hidden, turned away, or beside the image",
    "no face": "The surface passes through, but neighbours are missing for a quad: a hole, or the rim of the section",
    "no surface": "All its corners have one sign: no surface here, and so nothing that a pixel could pull on",
}


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return {"voxels", BACKWARD}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    own = view.gradients
    if BACKWARD not in snapshot.field_kinds:
        ui.wrapped("A recording keeps no gradients by term: Branch goes on from here with a run that has them."
                   if snapshot.source != "live" else "This run does not tell the terms of its loss apart (see "
                   "watchable in the run protocol). The Field tab shows what fields it has.")
        return []
    own.pick(view, snapshot)
    own.update(view, snapshot)
    if BACKWARD not in snapshot.fields:
        return _draw_nothing_yet(ui, snapshot)
    _draw_choices(ui, view, snapshot)
    if own.failure:
        ui.wrapped(own.failure, theme.BAD)
    if own.summary is None:
        ui.text("being taken apart …" if own.busy(view) else "", theme.MUTED)
    elif own.page == "terms":
        _draw_terms(ui, view, own.summary)
        _draw_histogram(ui, own.summary)
    elif own.page == "regions":
        _draw_regions(ui, view, own.summary)
    else:
        gradient_pull.draw_voxel(ui, view, own.summary)
    return []


def _draw_nothing_yet(ui: Ui, snapshot: Snapshot) -> list[Command]:
    """Gradients by term are made by the next backward pass: it can be had at once."""
    ui.heading("Gradients by term")
    ui.wrapped("They are kept while this tab is in front, from the next backward pass on.")
    if snapshot.source != "live" or snapshot.playing or snapshot.failure is not None:
        return []
    label, commands, tip = _next_pass(snapshot)
    return commands if ui.button(label, ui.width, accent=True, tip=tip) else []


def _next_pass(snapshot: Snapshot) -> tuple[str, list[Command], str]:
    """The shortest way to a backward pass, in words and commands."""
    stages, oldest = snapshot.stages, snapshot.past.oldest
    left = stages.index(BACKWARD) - stages.index(snapshot.stage_next) + 1 if BACKWARD in stages else 0
    if snapshot.iteration_under_way and left > 0:  # as where a breakpoint has stopped it after its loss
        return "Run on to the backward stage", [NextStage()] * left, "Shift and right arrow run one stage each"
    begun = snapshot.iteration + int(snapshot.iteration_under_way)
    if begun and oldest is not None and oldest < begun:
        return f"Do iteration {begun} again", [StepBack(), NextIteration()], (
            "Goes back to its start and runs it once more, with the very same result")
    return "Run one iteration", [NextIteration()], "Right arrow"


def _draw_choices(ui: Ui, view: ViewState, snapshot: Snapshot) -> None:
    own = view.gradients
    done = snapshot.fields[BACKWARD]
    ui.heading("Gradients", f"iteration {count(done.iteration)}, before its update")
    own.page = PAGES[ui.choice([page.capitalize() for page in PAGES], PAGES.index(own.page), tips=_PAGE_TIPS)]
    by = ui.choice([LABELS[name] for name in PARAMETERS], PARAMETERS.index(own.parameter), tips=TIPS)
    terms = ("", *done.terms)
    ui.im.SetNextItemWidth(ui.width)
    _, at = ui.im.Combo("##term", terms.index(own.term), ["the whole loss", *(f"{term} only" for term in done.terms)])
    ui.tip(_TERM_TIPS.get(own.term, "The sum of all terms: what the optimiser gets"))
    shown = field_name(own.parameter, own.term)
    own.parameter, own.term = PARAMETERS[by], terms[at]
    wanted = field_name(own.parameter, own.term)
    coloured = view.field.voxels_coloured and view.field.at_voxels in (shown, wanted)
    changed, coloured = ui.im.Checkbox("Colour the voxels by it", coloured)
    ui.tip("Active voxels by the size of this gradient; of corners the mean of the eight. The Field tab has the range")
    if changed:
        view.field.voxels_coloured = coloured
    if coloured:
        view.field.at_voxels = wanted


def field_name(parameter: str, term: str) -> str:
    """The run's field of these norms."""
    return f"{parameter}_grad_{term}" if term else f"{parameter}_grad"


# Terms


def _draw_terms(ui: Ui, view: ViewState, found: Summary) -> None:
    """The share of each term, and how the terms get along."""
    ui.heading("Pull of each term", f"by {LABELS[found.parameter]}")
    colours = term_colours(found.terms)
    total = float(found.norms.sum())
    ui.shares([(float(norm), colours[term]) for term, norm in zip(found.terms, found.norms, strict=True)], 0.7 * ui.em)
    ui.tip("Length of each term's gradient over all active rows, as a share of their sum")
    shares = [(f"{term} {100 * norm / total:.0f} %" if total else term, colours[term])
              for term, norm in zip(found.terms, found.norms.tolist(), strict=True)]
    ui.legend(shares)
    if found.bad_terms:
        ui.wrapped(f"Not finite somewhere, which is left out here: {', '.join(found.bad_terms)}.", theme.BAD)
    ui.heading("Do they agree?", "by all parameters")
    rivals = found.rivals()
    ui.wrapped("No two terms pull against each other." if rivals is None or rivals[2] > _RIVALS else
               f"{rivals[0]} and {rivals[1]} pull most against each other: cos {rivals[2]:+.2f}.")
    _draw_cosines(ui, found)


def term_colours(terms: tuple[str, ...]) -> dict[str, theme.Colour]:
    lines = theme.LINES
    return {term: lines[place % len(lines)] for place, term in enumerate(terms)}


def _draw_cosines(ui: Ui, found: Summary) -> None:
    """The cosine between any two terms' gradients: a triangle with the names along its side."""
    n = len(found.terms)
    im, draw = ui.im, ui.im.GetWindowDrawList()
    with ui.sized(0.82):
        tall, (x, y) = 1.45 * ui.em, im.GetCursorScreenPos()
        wide = ui.width / max(n, 1)
        scale, muted = Scale(-1.0, 1.0, "diverging"), packed(theme.MUTED)
        middle = (tall - 2 - im.GetTextLineHeight()) / 2
        for row, term in enumerate(found.terms):
            top = y + row * tall
            draw.AddText((x + row * wide + 2, top + middle), muted, term)
            for column, cosine in enumerate(found.cosines[row, :row].tolist()):
                left, known = x + column * wide, cosine == cosine
                colour = tuple(float(part) for part in scale.colours(np.array([cosine]))[0]) if known else theme.RAISED
                draw.AddRectFilled((left, top), (left + wide - 2, top + tall - 2), packed(colour), 0.15 * ui.em)
                text = "–" if not known else "0" if abs(cosine) < 0.05 else f"{cosine:+.1f}"
                dark = known and sum(colour) > 1.5
                ink = (0.08, 0.08, 0.08) if dark else (0.95, 0.95, 0.95) if known else theme.MUTED
                draw.AddText((left + (wide - 2 - im.CalcTextSize(text)[0]) / 2, top + middle), packed(ink), text)
        im.Dummy((ui.width, n * tall))
    ui.tip("Cosine between the gradients of two terms, all parameters together: +1 they want the same,\n"
           "-1 the opposite, 0 they have nothing to do with each other. What isn't finite is left out")


def _draw_histogram(ui: Ui, found: Summary) -> None:
    """Voxels by the size of their gradient, with what counts as vanishing and exploding."""
    ui.heading("Voxels by gradient", found.term or "the whole loss")
    plot = ui.plot
    flags = int(plot.ImPlotFlags_CanvasOnly) | int(plot.ImPlotFlags_NoInputs)
    if found.counts.any() and plot.BeginPlot("##norms", (ui.width, 6.0 * ui.em), flags):
        low, high = float(found.edges[0]), float(found.edges[-1])
        far = max(high, found.reaches[1] + 0.5) if found.reaches[1] == found.reaches[1] else high
        plot.SetupAxes("", "", int(plot.ImPlotAxisFlags_NoGridLines), int(plot.ImPlotAxisFlags_NoDecorations))
        tall = math.log10(1.0 + int(found.counts.max()))
        plot.SetupAxesLimits(low, far, 0.0, 1.08 * tall, int(plot.ImPlotCond_Always))
        marks = np.arange(math.ceil(low) + 1, math.floor(far) + 1, 3.0)
        plot.SetupAxisTicks(int(plot.ImAxis_X1), marks, [f"1e{int(mark)}" for mark in marks])
        middles = (found.edges[:-1] + found.edges[1:]) / 2
        plot.SetNextFillStyle((*theme.FRUSTUM, 0.9))
        plot.PlotBars("##counts", middles, np.log10(1.0 + found.counts), float(middles[1] - middles[0]))
        for name, reach, colour in zip(("vanish", "explode"), found.reaches, (theme.FRUSTUM, theme.PRUNED),
                                       strict=True):
            if reach == reach:
                plot.SetNextLineStyle((*colour, 1.0), 0.1 * ui.em)
                plot.PlotInfLines(f"##{name}", np.array([reach]))
        plot.EndPlot()
        ui.tip("Counts are logarithmic. Lines: what lies left of the first vanishes, right of the second explodes")
    zero, bad = f"{count(found.n_zero)} exactly 0", f"{count(found.n_bad)} not finite"
    ui.text(zero, theme.MUTED)
    ui.text_right(bad, theme.BAD if found.n_bad else theme.MUTED)


# Regions


def _draw_regions(ui: Ui, view: ViewState, found: Summary) -> None:
    """Counts by reason, and the regions one by one; a click goes there."""
    regions = found.regions
    n_wrong = sum(regions.counts.values())
    ui.heading("Vanish or explode", f"{count(n_wrong)} of {count(found.n_voxels)}")
    ui.tip("Of the voxels that were active in this iteration")
    ui.text(f"median {regions.median:.3g} where pixels see it" if regions.median == regions.median else
            "no gradient anywhere", theme.MUTED, size=SMALL)
    for reason in REASONS:
        if regions.counts.get(reason):
            ui.dot(reason_colour(reason))
            ui.text(_REASON_WORDS[reason])
            ui.tip(REASON_TIPS[reason])
            ui.text_right(count(regions.counts[reason]))
    if not regions.first:
        ui.text("None: every active voxel is pulled, none too much.", theme.GOOD)
        return
    ui.heading("Regions", count(regions.n_all))
    ui.text("A click shows one in the scene.", theme.MUTED, size=SMALL)
    with ui.sized(SMALL):
        for number, region in enumerate(regions.first):
            _draw_region(ui, view, number, region)
    if regions.n_all > len(regions.first):
        ui.text(f"and {count(regions.n_all - len(regions.first))} more, smaller or less grave", theme.MUTED, size=SMALL)


def reason_colour(reason: str) -> theme.Colour:
    place = REASONS.index(reason)
    if reason in ("bad parameter", "not finite"):
        return theme.NOT_A_NUMBER
    return theme.PRUNED if place < N_EXPLODING else theme.FRUSTUM if reason != "no surface" else theme.OUTSIDE


def _draw_region(ui: Ui, view: ViewState, number: int, region: Region) -> None:
    """One line: how many voxels where, why, and the worst of its norms, or what isn't finite."""
    finite = math.isfinite(region.norm)
    own, left, width = view.gradients, ui.im.GetCursorPosX(), ui.width
    ui.dot(reason_colour(region.reason))
    if ui.im.Selectable(f"##region {number}", own.region == number, 0, (0.0, 0.0)):
        own.choose(view, number)
    ui.tip(f"{REASON_TIPS[region.reason]}.\nVoxels {ijk_text(region.low)} to {ijk_text(region.high)}; the worst is "
           f"{ijk_text(region.worst)}"
           + f", where {region.term} {'pulls most' if finite else 'is not finite'}" * bool(region.term)
           + ("" if finite else ".\nThe Voxel page has all terms there"))
    ui.im.SameLine()
    ui.im.SetCursorPosX(left + 1.0 * ui.em)
    what = f"{count(region.n_voxels)} voxel{'s' * (region.n_voxels > 1)} at {ijk_text(region.worst)}"
    norm = gradient_pull.short(region.norm) + (f" {region.term}" if region.term and region.explodes else "")
    norm = norm if finite else "parameter" if region.reason == "bad parameter" else "gradient"
    ui.text(ui.shortened(what, width - ui.im.CalcTextSize(norm)[0] - 2.0 * ui.em))
    ui.text_right(norm, theme.MUTED)


def ijk_text(ijk: tuple[int, int, int]) -> str:
    return "{}, {}, {}".format(*ijk)
