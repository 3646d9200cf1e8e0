"""How much an optimizer loses where its learning rate is not the best one."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from models.data import load_data
from models.tuning.search import Search

OVER = {"lr", "optimizer", "seed"}  # what a grid may vary; anything else would be mixed into the rates


def uniform_guess(search: Search) -> float:
    """The loss (nats) of a network that finds all classes of the search's data equally likely."""
    config = search.space.config(next(iter(search.space.corners())))
    return math.log(load_data(config.data, **config.data_options).num_classes)


def lr_sensitivity(answer: xr.Dataset, ceiling: float) -> xr.Dataset:
    """Average over the rates of a grid how far the loss ends above the loss of the best of them.

    Args:
        answer: What `Search` answered of a grid over lr and optimizer, perhaps also seed, by validation loss.
        ceiling: Losses above it, and those of trials that diverged or failed, count as this one; the loss of a
            uniform guess stands for the initial loss of the source.

    Returns:
        sensitivity (nats) over (optimizer); its standard_error over seeds, NaN with one seed; best_lr, that of the
        lowest mean over seeds. It depends on the rates of the grid, so compare optimizers over the same ones, wide
        enough that each has its best one inside.

    Raises:
        ValueError: If the grid is over other fields, the trials are no grid, or they are not compared by a loss.

    References:
        Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities", ICLR 2024, section 2.
    """
    names = {str(name) for name in answer["parameter"].values}
    if (
        answer.attrs["sampler"] != "grid"
        or not {"lr", "optimizer"} <= names <= OVER
        or "loss" not in answer.objective.attrs["long_name"]
    ):
        raise ValueError(
            "expected a grid over lr and optimizer, perhaps also seed, by a validation loss; got "
            f"{answer.attrs['sampler']} over {', '.join(sorted(names))} by {answer.objective.attrs['long_name']}"
        )
    axes = [name for name in ("optimizer", "seed", "lr") if name in names]
    losses = answer["objective"].assign_coords({name: ("trial", answer[f"field_{name}"].values) for name in axes})
    cube = losses.set_index(trial=axes).unstack("trial").fillna(ceiling).clip(max=ceiling)
    cube = cube if "seed" in cube.dims else cube.expand_dims("seed")
    above = (cube - cube.min("lr")).mean("lr")
    seeds = cube.sizes["seed"]
    error = above.std("seed", ddof=1) / math.sqrt(seeds) if seeds > 1 else above.mean("seed") * np.nan
    best = cube["lr"].values[cube.mean("seed").transpose("optimizer", "lr").values.argmin(axis=1)]
    return xr.Dataset(
        {
            "sensitivity": above.mean("seed").transpose("optimizer").assign_attrs(units="nats"),
            "standard_error": error.transpose("optimizer").assign_attrs(units="nats"),
            "best_lr": ("optimizer", best),
        }
    )
