"""The factors of a sweep as axes: their levels, words and scales, and which runs did not finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from landscape.effects import finished_values, level_words
from landscape.figures.labels import quantity
from landscape.figures.scales import is_wide, log_x, number, round_ticks
from landscape.figures.style import count, told_apart
from landscape.text import clean

Array = NDArray[np.float64]
MARKS = {"diverged": "×", "failed": "!", "missing": "?"}
"""What stands where no run of a cell finished; the first that occurs."""
_MOST_SPREAD = 100  # largest over smallest seed of a cell
_LABELS = {"lr": "learning rate", "init": "initialization", "augment": "augmentation", "sam": "SAM radius"}


@dataclass(frozen=True)
class Factor:
    """One swept field.

    Attributes:
        name: The dimension of the sweep.
        label: Its name in words.
        words: Each of its levels.
        values: (L,) the levels as numbers; their positions where they are words.
        is_numeric: Whether they are numbers.
        is_log: Whether an axis should be logarithmic.
    """

    name: str
    label: str
    words: tuple[str, ...]
    values: Array
    is_numeric: bool
    is_log: bool

    @classmethod
    def of(cls, sweep: xr.Dataset, name: str) -> Factor:
        """Read a dimension of a sweep."""
        levels = sweep[name] if name in sweep.coords else xr.DataArray(np.arange(sweep.sizes[name]), dims=name)
        is_numeric = levels.dtype.kind in "fiu"
        values = levels.values.astype(float) if is_numeric else np.arange(levels.size, dtype=float)
        short = tuple(number(float(f"{value:.3g}")) for value in values)
        words = short if is_numeric and len(set(short)) == len(short) else level_words(levels)
        label = clean(_LABELS.get(name, name.replace("_", " ")))
        return cls(name, label, words, values, is_numeric, is_numeric and is_wide(values, 9))

    @property
    def title(self) -> str:
        """The label with a capital."""
        return self.label[:1].upper() + self.label[1:]

    def short(self, limit: int = 14) -> list[str]:
        """The words of the levels, long ones shortened so that they still differ."""
        return told_apart(self.words, limit)

    def titles(self) -> list[str]:
        """Each level with the name of the factor: "norm batch"."""
        return [f"{self.label} {word}" for word in self.short(18)]


def factors_of(sweep: xr.Dataset) -> list[Factor]:
    """Return the swept fields with two levels at least, without the seeds, in their order."""
    dims = [str(dim) for dim in sweep["status"].dims if dim != "seed"]
    return [Factor.of(sweep, dim) for dim in dims if sweep.sizes[dim] > 1]


def chosen_factor(sweep: xr.Dataset, name: str) -> Factor:
    """Return one of them by name.

    Raises:
        ValueError: If it was not swept.
    """
    known = {factor.name: factor for factor in factors_of(sweep)}
    if name not in known:
        raise ValueError(f"{name!r} was not swept over two levels; choose among {', '.join(known) or 'none'}")
    return known[name]


def averaged(values: xr.DataArray, shown: Sequence[Factor | None]) -> tuple[xr.DataArray, list[str]]:
    """Average over the factors that are not shown, within each seed, over the runs that finished.

    Returns:
        The values over the shown factors in their order, then what else there is (seed, epoch); and the names of the
        factors that were averaged over.
    """
    names = [factor.name for factor in shown if factor is not None]
    others = [str(dim) for dim in values.dims if dim not in (*names, "seed", "epoch")]
    rest = [dim for dim in ("seed", "epoch") if dim in values.dims]
    hidden = [dim for dim in others if values.sizes[dim] > 1]
    return values.mean(others, skipna=True).transpose(*names, *rest), hidden


def statuses(sweep: xr.Dataset, shown: Sequence[Factor | None]) -> xr.DataArray:
    """(*shown,) of each cell the mark of runs that did not finish, "" where one did."""
    names = [factor.name for factor in shown if factor is not None]
    status = sweep["status"]
    others = [dim for dim in status.dims if dim not in names]
    marks = xr.full_like(status.any(others) if status.dtype == bool else (status == "").any(others), "", dtype="U1")
    for word, mark in reversed(MARKS.items()):
        marks = marks.where(~(status == word).any(others), mark)
    return marks.where(~(status == "finished").any(others), "").transpose(*names)


def status_note(sweep: xr.Dataset) -> str:
    """How many runs did not finish, by how they ended; "" if all did."""
    found = sweep["status"].values.astype(str)
    lost = {word: int((found == word).sum()) for word in MARKS}
    words = [f"{many} {word} ({MARKS[word]})" for word, many in lost.items() if many]
    return f"of {count(found.size, 'run')} {', '.join(words)}" if words else ""


def metric_values(sweep: xr.Dataset, metric: str) -> xr.DataArray:
    """A metric of the finished runs, accuracies in percent; `test_error` and the like are what they lack to 100."""
    accuracy = f"{metric.removesuffix('error')}accuracy"
    if metric not in sweep and metric.endswith("error") and accuracy in sweep:
        return 100 - 100 * finished_values(sweep, accuracy)
    return finished_values(sweep, metric) * (100 if is_share(metric) else 1)


def is_share(metric: str) -> bool:
    """Whether a metric goes from 0 to 1 and is drawn in percent."""
    return metric.endswith(("error", "accuracy"))


def fitting_center(values: xr.DataArray) -> str:
    """Name what stands for the seeds of a cell: their mean, or their median where one seed would decide the mean."""
    low, high = values.min("seed"), values.max("seed")
    return "median" if bool(((low > 0) & (high > _MOST_SPREAD * low)).any()) else "mean"


def metric_label(sweep: xr.Dataset, metric: str) -> str:
    """The label of a metric's axis: "Test loss (nats)"."""
    words = quantity(sweep, metric)
    return words[:1].upper() + words[1:] + (" (%)" if is_share(metric) else "")


def put_levels(ax: Axes, factor: Factor, labelled: bool = True) -> None:
    """Make the x axis that of a factor: logarithmic, linear, or one place a word."""
    if factor.is_log:
        log_x(ax, factor.values, most=5)
    elif factor.is_numeric:
        ax.xaxis.set_major_locator(round_ticks(5))
    else:
        words = factor.short(16)
        ax.set_xticks(factor.values, words)
        ax.set_xlim(-0.5, len(words) - 0.5)
        if sum(map(len, words)) > 26:
            ax.tick_params(axis="x", rotation=30)
            for label in ax.get_xticklabels():
                label.set_horizontalalignment("right")
                label.set_rotation_mode("anchor")
    if labelled:
        ax.set_xlabel(factor.title)
