"""Latent: mean and spread of an inference's latents by channel, and edits of them that are decoded again."""

from __future__ import annotations

import numpy as np

from workbench import theme
from workbench.commands import ChangeSetting, Command
from workbench.latent_view import CENTRE, EDITED, LATENT, MEAN, RADIUS, STD, Channels
from workbench.network_view import LATENT_VOXELS, another_pass
from workbench.snapshot import Snapshot
from workbench.ui import Ui, count
from workbench.view_state import ViewState

REPLACEMENTS = ("nothing", "zeros", "a sample of N(0, 1)", "the other shape's")
OTHER = 3
CHUNKS = (0, 4096, 16384, 65536)
DEFAULT_RADIUS = 0.15
NO_OTHER = "no other shape: --other MESH gives one"
_LABEL_EM = 5.0


def fields(view: ViewState, snapshot: Snapshot) -> set[str]:
    return {MEAN, STD, LATENT, EDITED, LATENT_VOXELS}


def draw(ui: Ui, view: ViewState, snapshot: Snapshot) -> list[Command]:
    found = view.latent.channels(snapshot)
    voxels = snapshot.products.fields.get(LATENT_VOXELS)
    ui.heading("Channels", "" if voxels is None else f"{count(voxels.n_voxels)} voxels, {voxels.resolution}³")
    if found is None:
        ui.text("No latents yet: the stage latent makes them.", theme.MUTED)
    else:
        _draw_channels(ui, view, found)
    changes = _draw_edits(ui, view, snapshot) + _draw_region(ui, view, snapshot)
    ui.heading("Decode")
    _draw_edited(ui, snapshot)
    changes += _draw_chunks(ui, snapshot)
    commands: list[Command] = [ChangeSetting(name, value) for name, value in changes]
    _, view.latent.at_once = ui.im.Checkbox("After each change", view.latent.at_once)
    ui.tip("Decodes as soon as a slider is let go; else when the button is pressed.\n"
           "Stages before the latents keep what they made")
    live = snapshot.source == "live"
    tip = "Runs a pass with the edits as they are: latents, trunk, upsamplings, surface" if live else (
        "A recording can't be changed: branch from here (Ctrl + B)")
    again = ui.button("Decode again", ui.width, live and snapshot.failure is None, accent=live, tip=tip)
    return commands + (another_pass(snapshot) if again or (changes and view.latent.at_once) else [])


def _draw_channels(ui: Ui, view: ViewState, found: Channels) -> None:
    """Each channel's mean and deviation over the voxels, and those of what is decoded; a click colours by it."""
    plot, n = ui.plot, len(found.mean)
    edited = not (np.array_equal(found.mean, found.decoded_mean) and
                  np.array_equal(found.deviation, found.decoded_deviation))
    series = [("mean ± deviation", theme.ACTIVE, found.mean, found.deviation)]
    if edited:
        series.append(("decoded", theme.FRUSTUM, found.decoded_mean, found.decoded_deviation))
    ui.legend([(label, colour) for label, colour, _, _ in series])
    ui.tip("Over all voxels: what the posterior's means are, and what is decoded after sampling and edits")
    reach = np.concatenate([np.abs(mean) + part for _, _, mean, part in series])
    most = max(float(np.nanmax(reach, initial=0.0)), 1e-3) * 1.1
    flags = 0
    for name in ("NoTitle", "NoMenus", "NoMouseText", "NoLegend", "NoBoxSelect"):
        flags |= int(getattr(plot, f"ImPlotFlags_{name}"))
    if not plot.BeginPlot("##channels", (ui.width, 7.5 * ui.em), flags):
        return
    bare = int(plot.ImPlotAxisFlags_NoGridLines) | int(plot.ImPlotAxisFlags_NoTickMarks)
    plot.SetupAxes("", "", bare, 0)
    plot.SetupAxesLimits(-0.6, n - 0.4, -most, most, int(plot.ImPlotCond_Always))
    plot.SetupAxisTicks(int(plot.ImAxis_X1), np.arange(0, n, -(-n // 16), dtype=np.float64))
    for place, (label, colour, mean, deviation) in enumerate(series):
        at = np.arange(n, dtype=np.float64) + (0.16 * (2 * place - 1) if edited else 0.0)
        plot.SetNextErrorBarStyle((*colour, 1.0), 0.35 * ui.em, 0.12 * ui.em)
        plot.PlotErrorBars(f"##{label}", at, mean, deviation)
        plot.SetNextMarkerStyle(int(plot.ImPlotMarker_Circle), 0.24 * ui.em, (*colour, 1.0), 0.0, (*colour, 1.0))
        plot.PlotScatter(f"##{label} means", at, mean)
    if plot.IsPlotHovered():
        _point_at(ui, view, found, round(float(plot.GetPlotMousePos()[0])))
    plot.EndPlot()


def _point_at(ui: Ui, view: ViewState, found: Channels, channel: int) -> None:
    if not 0 <= channel < len(found.mean):
        return
    ui.im.SetTooltip(
        f"channel {channel}\nmean {found.mean[channel]:.3f}, deviation {found.deviation[channel]:.3f} over the voxels\n"
        f"spread {found.spread[channel]:.4f}: how unsure the encoder is of one voxel, on average\n"
        f"decoded: mean {found.decoded_mean[channel]:.3f}, deviation {found.decoded_deviation[channel]:.3f}\n"
        "Click to colour the voxels by it")
    if ui.im.IsMouseClicked(0):
        view.network.chosen = "latent"
        view.field.parts["mean"] = f"channel {channel}"
        view.network.colour_by(view, "mean")


Changes = list[tuple[str, float]]


def _draw_edits(ui: Ui, view: ViewState, snapshot: Snapshot) -> Changes:
    """Sample, replace, interpolate, noise: in the order in which the run does them."""
    settings, changes = snapshot.settings, []
    ui.heading("Edits")
    if "sample_posterior" in settings:
        now = int(settings["sample_posterior"].value)
        chosen = ui.choice(("The mean", "A sample"), now, tips=(
            "Decodes the posterior's mean, as the release does", "Decodes a sample: mean plus spread times noise"))
        changes += [("sample_posterior", float(chosen))] if chosen != now else []
    if "replace" in settings:
        changes += _draw_replace(ui, snapshot)
    changes += _slider(ui, view, snapshot, "interpolate", "to the other", "%.2f", (
        "Between this shape's latents, 0, and the other one's, 1, on the voxels of both"))
    if "interpolate" not in settings:
        ui.text(NO_OTHER, theme.MUTED)
    changes += _slider(ui, view, snapshot, "noise", "noise", "%.2f", (
        "Adds noise: so many times each channel's own deviation over the shape"))
    random = [settings[name].value for name in ("sample_posterior", "noise") if name in settings]
    random.append(float("replace" in settings and int(settings["replace"].value) == 2))
    if "latent_seed" in settings:
        seed = settings["latent_seed"]
        tip = "Draws samples and noise anew, by the next seed"
        if ui.button(f"Another draw (seed {seed.value:.0f})", ui.width, any(random), tip=tip):
            changes.append(("latent_seed", seed.value + 1 if seed.value < seed.maximum else seed.minimum))
    return changes


def _draw_replace(ui: Ui, snapshot: Snapshot) -> Changes:
    now = int(snapshot.settings["replace"].value)
    choices = REPLACEMENTS if "interpolate" in snapshot.settings else REPLACEMENTS[:OTHER]
    ui.im.SetNextItemWidth(ui.width - _LABEL_EM * ui.em)
    _, chosen = ui.im.Combo("replaced by", min(now, len(choices) - 1), list(choices))
    ui.tip("What takes the latents' place, everywhere or within the region")
    return [("replace", float(chosen))] if chosen != now else []


def _slider(ui: Ui, view: ViewState, snapshot: Snapshot, name: str, label: str, text: str, tip: str,
            most: float | None = None) -> Changes:
    """A slider that shows what it is dragged to, and changes the setting once it is let go."""
    setting = snapshot.settings.get(name)
    ui.im.BeginDisabled(setting is None)
    ui.im.SetNextItemWidth(ui.width - _LABEL_EM * ui.em)
    low, high = (0.0, 1.0) if setting is None else (setting.minimum, setting.maximum)
    changed, value = ui.im.SliderFloat(f"{label}##{name}", view.latent.value(view, snapshot, name), low,
                                       high if most is None else min(most, high), text)
    held, ended = bool(ui.im.IsItemActive()), bool(ui.im.IsItemDeactivated())
    ui.im.EndDisabled()
    ui.tip(tip)
    if setting is None:
        return []
    if changed:
        view.edited[name] = float(value)
    if held or name not in view.edited or not (ended or changed):
        return []
    value = min(max(view.edited.pop(name), setting.minimum), setting.maximum)
    return [(name, value)] if value != setting.value else []


def _draw_region(ui: Ui, view: ViewState, snapshot: Snapshot) -> Changes:
    """Where latents are edited: everywhere, or around a place."""
    if RADIUS not in snapshot.settings:
        return []
    ui.heading("Where")
    picked, radius = view.network.picked, snapshot.settings[RADIUS].value
    around = int(radius > 0)
    chosen = ui.choice(("Everywhere", "Around a place"), around, tips=(
        "Edits change the latents of all voxels", "Edits stay within a ball, drawn as circles in the scene"))
    changes: Changes = []
    if chosen != around:
        view.edited.pop(RADIUS, None)
        changes.append((RADIUS, DEFAULT_RADIUS if chosen else 0.0))
        if chosen and picked is not None:
            changes += _centred(snapshot, picked.centre_world)
    if around:
        changes += _slider(ui, view, snapshot, RADIUS, "radius", "%.3f", "In world units: the box has side 1", 1.0)
        place = tuple(snapshot.settings[name].value for name in CENTRE)
        ui.pair("around", ", ".join(f"{part:.3f}" for part in place))
        able = picked is not None and bool(_centred(snapshot, picked.centre_world))
        if ui.button("Around the picked voxel", ui.width, able, tip="Click a voxel in the scene to pick it"):
            changes += _centred(snapshot, picked.centre_world)
    return changes


def _centred(snapshot: Snapshot, centre: tuple[float, float, float]) -> Changes:
    """What moves the region there; nothing where it is there already."""
    return [(name, part) for name, part in zip(CENTRE, centre, strict=True)
            if name in snapshot.settings and abs(snapshot.settings[name].value - part) > 1e-6]


def _draw_chunks(ui: Ui, snapshot: Snapshot) -> Changes:
    """Whether levels are upsampled whole or in parts, and whether as the release does it."""
    changes: Changes = []
    if "chunk_voxels" in snapshot.settings:
        now = int(snapshot.settings["chunk_voxels"].value)
        sizes = sorted({*CHUNKS, now})
        ui.im.SetNextItemWidth(ui.width)
        _, chosen = ui.im.Combo("##chunk voxels", sizes.index(now), [
            f"in chunks of {count(size)} voxels" if size else "all voxels at once" for size in sizes])
        ui.tip("Upsampling in chunks takes less memory and gives the same: normalisations go over all voxels\n"
               "either way")
        changes += [("chunk_voxels", float(sizes[chosen]))] if sizes[chosen] != now else []
    if "release_chunks" in snapshot.settings:
        used, wanted = ui.im.Checkbox("As the release does", snapshot.settings["release_chunks"].value > 0)
        ui.tip("In overlapping chunks, each normalised on its own: compatible with the public release's results,\n"
               "which differ from decoding the whole")
        changes += [("release_chunks", float(wanted))] if used else []
    return changes


def _draw_edited(ui: Ui, snapshot: Snapshot) -> None:
    moved = snapshot.products.fields.get(EDITED)
    if moved is None or not len(moved):
        return
    n_moved = int(np.count_nonzero(moved))
    ui.pair("voxels edited", f"{count(n_moved)} of {count(len(moved))}")
    if n_moved:
        ui.pair("moved by, on average", f"{float(moved[moved > 0].mean()):.3f}")
        ui.tip("Length of the change of an edited voxel's latent")
