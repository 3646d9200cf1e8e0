"""Which test examples several runs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landscape.examples import Examples
from models.data import Splits, load_data
from models.opened import Run


def shared_test(runs: Mapping[str, Run]) -> dict[str, Splits]:
    """Load the data of all runs, and make sure that they are tested on the same examples.

    Each run sees inputs as it was trained on them: where only the training split differs, and with it the constants
    that inputs are standardized by, the test examples are still the same.

    Raises:
        ValueError: If they are not, or the data have other classes; the message says what differs.
    """
    splits = {name: run.data() for name, run in runs.items()}
    (first, of_first), *rest = splits.items()
    for name, other in rest:
        if other.num_classes != of_first.num_classes:
            raise ValueError(
                f"the data of {name} have {other.num_classes} classes, those of {first} {of_first.num_classes}; "
                "an ensemble averages over the same classes: choose runs that have them"
            )
        if _digest(other) != _digest(of_first) and _raw_digest(runs[name]) != _raw_digest(runs[first]):
            raise ValueError(
                f"{name} is tested on other examples than {first} ({_differences(runs[name], runs[first])}); "
                "predictions are compared on one test set: choose runs of the same data, test_size and data_seed"
            )
    return splits


def _digest(splits: Splits) -> str:
    return Examples.of(splits.test).digest()


def _raw_digest(run: Run) -> str:
    """Digest the test examples as they are before they are standardized."""
    name, options = data_of(run)
    return _digest(load_data(name, **{**options, "standardize": "none"}))


def data_of(run: Run) -> tuple[str, dict[str, Any]]:
    """Return what `load_data` takes: the name of a run's data, and the other options."""
    if run.config is None:
        return run.about["data"], run.about["data_options"]
    return run.config.data, run.config.data_options


def _differences(run: Run, other: Run) -> str:
    ours, theirs = ({"data": name, **options} for name, options in (data_of(run), data_of(other)))
    names = [name for name in ours if ours[name] != theirs.get(name)]
    listed = [f"{'data_seed' if name == 'seed' else name} is {ours[name]} and {theirs.get(name)}" for name in names]
    return ", ".join(listed) or "their files differ"
