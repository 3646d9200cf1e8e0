"""The sensitivity to the learning rate, against means worked out by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import xarray as xr

from landscape import figures
from models.tuning import Search, Space, lr_sensitivity, uniform_guess

RATES = (0.01, 0.1, 1.0)
LOSSES = {"adam": (0.5, 0.4, 0.6), "sgd": (2.0, 0.4, math.nan)}


def grid(
    seeds: int = 1, sampler: str = "grid", objective: str = "validation loss (nats) of the best epoch"
) -> xr.Dataset:
    """A grid in a mixed order; each further seed ends 0.1 higher at the rates that are not the best."""
    trials = list(product(RATES, LOSSES, range(seeds)))
    trials = [trials[i] for i in np.random.default_rng(0).permutation(len(trials))]
    losses = [LOSSES[name][RATES.index(lr)] + 0.1 * seed * (lr != 0.1) for lr, name, seed in trials]
    fields = {"lr": [t[0] for t in trials], "optimizer": [t[1] for t in trials], "seed": [t[2] for t in trials]}
    kept = {name: values for name, values in fields.items() if name != "seed" or seeds > 1}
    return xr.Dataset(
        {
            "objective": ("trial", losses, {"long_name": objective}),
            **{f"field_{name}": ("trial", values) for name, values in kept.items()},
        },
        {"trial": range(len(trials)), "parameter": list(kept)},
        {"sampler": sampler},
    )


def test_the_mean_above_the_best_rate_with_what_diverged_at_the_ceiling():
    found = lr_sensitivity(grid(), 2.3)
    assert found.sensitivity.sel(optimizer="adam").item() == pytest.approx((0.1 + 0 + 0.2) / 3)
    assert found.sensitivity.sel(optimizer="sgd").item() == pytest.approx((1.6 + 0 + 1.9) / 3)
    assert found.best_lr.values.tolist() == [0.1, 0.1] and np.isnan(found.standard_error).all()


def test_seeds_give_a_standard_error():
    adam = lr_sensitivity(grid(seeds=2), 2.3).sel(optimizer="adam")
    one, other = 0.3 / 3, 0.5 / 3
    assert adam.sensitivity.item() == pytest.approx((one + other) / 2)
    assert adam.standard_error.item() == pytest.approx((other - one) / 2)


def test_what_is_no_such_grid_is_refused():
    for wrong in (grid(sampler="random"), grid(objective="validation error of the best epoch")):
        with pytest.raises(ValueError, match="expected a grid over lr and optimizer"):
            lr_sensitivity(wrong, 2.3)


def test_a_grid_of_runs(tmp_path):
    texts = {"data": "digits", "train_size": "100", "model": "mlp", "width": "8", "epochs": "1"}
    search = Search(Space.read({**texts, "lr": "1e-3,1e-1", "optimizer": "sgd,adam", "seed": "0,1"}))
    assert uniform_guess(search) == pytest.approx(math.log(10))
    found = lr_sensitivity(search(tmp_path), uniform_guess(search))
    assert (found.sensitivity >= 0).all() and np.isfinite(found.standard_error).all()


def test_seeds_are_no_axis_of_a_response_surface():
    answer = grid(seeds=2).assign(importance=("parameter", [0.6, 0.2, 0.2])).assign_attrs(probe="search")
    assert list(figures.draw(answer, "search-1")) == ["marginals"]
    decayed = answer.assign(field_seed=answer.field_seed * 1e-4).assign_coords(parameter=["lr", "optimizer", "decay"])
    assert list(figures.draw(decayed.rename(field_seed="field_decay"), "search-1")) == ["marginals", "response-surface"]
