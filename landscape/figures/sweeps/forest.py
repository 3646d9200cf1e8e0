"""The factor table of a sweep: effects with their intervals, and the shares of variance."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.style import BLUE, GREY, ORANGE, WIDTHS, few_ticks, note_under, shortened, styled
from landscape.text import clean

_MOST_ROWS = 36


@styled
def effect_forest(table: xr.Dataset) -> Figure:
    """Every effect with its 95% interval (thick) and its simultaneous interval (thin), beside the shares of variance.

    Effects whose simultaneous interval holds zero are grey. Of many effects the main effects come first, then the
    interactions that are largest against their errors.

    Args:
        table: What `landscape.effects.factor_effects` returns.
    """
    rows = _rows(table)
    height = 0.15 * (len(rows) + len(set(table["term"].values[rows]))) + 1.0
    figure = Figure(figsize=(WIDTHS["double"], max(height, 2.2)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.5))
    _draw_effects(left, table.isel(effect=rows))
    metric, is_log = clean(str(table.attrs["metric"]).replace("_", " ")), table.attrs.get("scale") == "log"
    left.set_xlabel(f"Effect on {'the logarithm of ' if is_log else ''}{metric}")
    _draw_shares(right, table)
    hidden = table.sizes["effect"] - len(rows)
    dropped = clean(table.attrs.get("dropped", ""))
    note_under(
        figure,
        [
            _intervals_note(table),
            f"geometric mean {np.exp(table['mean'].item()):.4g}; an effect of 0.69 doubles"
            if is_log
            else f"mean {metric} {table['mean'].item():.4g}",
            f"{hidden} smaller interactions not shown" if hidden else "",
            f"left out for empty cells: {dropped}" if dropped else "",
        ],
    )
    return figure


def _intervals_note(table: xr.Dataset) -> str:
    if not np.isfinite(table["low"]).any():
        return clean(table.attrs["note"], 200)
    how = "paired by seed" if table.attrs["pairing"] == "seed" else "unpaired"
    return (
        f"thick: 95%, Student's t over {table['num_seeds'].item()} seeds, {how}; thin: all {table.sizes['effect']} at "
        "once (Bonferroni); grey: the thin one holds zero"
    )


def _rows(table: xr.Dataset) -> np.ndarray:
    """Which effects are shown, in the order of the table."""
    if table.sizes["effect"] <= _MOST_ROWS:
        return np.arange(table.sizes["effect"])
    error = table["standard_error"].values
    size = np.abs(table["estimate"].values) / (error if (error > 0).all() else 1.0)
    is_main = np.char.find(table["term"].values.astype(str), ":") < 0
    order = np.lexsort((-size, ~is_main))
    return np.sort(order[:_MOST_ROWS])


def _draw_effects(ax: Axes, table: xr.Dataset) -> None:
    few_ticks(ax)
    ax.axvline(0, color=GREY, linewidth=0.6, linestyle="--", zorder=0)
    places, names, place, before = [], [], 0.0, ""
    for index, (term, level) in enumerate(zip(table["term"].values, table["level"].values, strict=True)):
        if term != before:
            place += 0.6 if before else 0.0
            title = " × ".join(part.replace("_", " ") for part in str(term).split(":"))
            ax.annotate(
                clean(title), (0, place), xycoords=("axes fraction", "data"), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=6, fontweight="bold", gid="term",
            )  # fmt: skip
            place += 1.0
            before = term
        _draw_effect(ax, place, table.isel(effect=index))
        places.append(place)
        names.append(shortened(str(level), 30))
        place += 1.0
    ax.set_yticks(places, names, fontsize=6)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(place - 0.3, -0.7)
    ax.set_xlim(*_limits(table))


def _limits(table: xr.Dataset) -> tuple[float, float]:
    """Room for estimates and 95% intervals; of few seeds the simultaneous ones would flatten all others."""
    names = ("estimate", "low", "high")
    inner = np.nanmax([np.nanmax(np.abs(table[name].values), initial=0.0) for name in names]) or 1.0
    ends = [np.nanmax(np.abs(table[f"simultaneous_{name}"].values), initial=0.0) for name in ("low", "high")]
    reach = 1.08 * max(inner, min(max(ends), 2 * inner))
    return -reach, reach


def _draw_effect(ax: Axes, place: float, row: xr.Dataset) -> None:
    low, high, outer_low, outer_high, estimate = (
        row[name].item() for name in ("low", "high", "simultaneous_low", "simultaneous_high", "estimate")
    )
    is_known = np.isfinite(outer_low)
    colour = BLUE if is_known and (outer_low > 0 or outer_high < 0) else GREY if is_known else "black"
    if is_known:
        ax.plot([outer_low, outer_high], [place, place], color=colour, linewidth=0.6, gid="simultaneous")
        ax.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt", gid="interval")
    ax.plot([estimate], [place], "o", color=colour, markersize=2.6, gid="estimate")


def _draw_shares(ax: Axes, table: xr.Dataset) -> None:
    share, chance = (100 * np.nan_to_num(table[name].values) for name in ("share", "share_by_chance"))
    places = np.arange(len(share))
    ax.barh(places, share, color=BLUE, height=0.6, gid="share")
    if np.isfinite(table["share_by_chance"]).any():
        ax.plot(chance, places, "|", color=ORANGE, markersize=8, markeredgewidth=1.4, label="by chance", gid="chance")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1))
    names = [" × ".join(p.replace("_", " ") for p in str(name).split(":")) for name in table["source"].values]
    ax.set_yticks(places, [shortened(name, 24) for name in names], fontsize=6)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(share) - 0.4, -0.6)
    ax.set_xlim(0, max(1.08 * np.concatenate([share, chance]).max(), 1.0))
    ax.set_xlabel("Share of variance (%)")
