from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

from landscape import execution
from landscape.execution import SerialExecutor, Work
from landscape.objective import Objective
from landscape.operators import TITLES, EmpiricalFisher, Fisher, GaussNewton, Hessian
from landscape.probes import SpectralDensity, Spectrum, Trace
from landscape.verdict import judge
from tests import oracles
from tests.problems import InterruptedJournal, network, quadratic, rotated

LONG = torch.linspace(0.1, 1, 200, dtype=torch.float64).tolist()
WELL = torch.linspace(4, 9, 200, dtype=torch.float64).tolist()  # so far from zero that a look excludes the other sign


@pytest.mark.parametrize(
    ("spectrum", "verdict", "reason"),
    [
        ([5.0, 3.0, 1.0, 0.5], "minimum", "every curvature is positive"),
        ([5.0, 3.0, 1.0, -0.5], "saddle", "curvature of both signs"),
        ([-5.0, -3.0, -1.0, -0.5], "maximum", "every curvature is negative"),
        ([5.0, 3.0, 1.0, 0.0], "undecided", "cannot be told from zero"),
        ([0.0, 0.0, 0.0, 0.0], "undecided", "cannot be told from zero"),
        ([5.0, 3.0, 1.0, 1e-15], "undecided", "cannot be told from zero"),  # below 100 eps * 5
        ([*LONG, 9.0], "undecided", "no negative curvature was found, and none lies below -0."),
        ([-v for v in [*LONG, 9.0]], "undecided", "no positive curvature was found, and none lies above 0."),
        (WELL, "minimum", "every curvature is positive"),
        ([-v for v in WELL], "maximum", "every curvature is negative"),
        ([*LONG, 9.0, -3.0], "saddle", "curvature of both signs"),
    ],
)
def test_verdicts(spectrum, verdict, reason):
    answer = Spectrum(k=2)(quadratic(rotated(spectrum)))
    assert answer.attrs["verdict"] == verdict
    assert reason in answer.attrs["verdict_reason"]
    ordered = sorted(spectrum, reverse=True)
    assert answer.eigenvalue.sel(end="largest").values == pytest.approx(ordered[:2], abs=2e-3 * max(map(abs, spectrum)))
    assert answer.eigenvalue.sel(end="smallest").values == pytest.approx(
        ordered[::-1][:2], abs=2e-3 * max(map(abs, spectrum))
    )


@pytest.mark.parametrize(("sign", "verdict"), [(1, "minimum"), (-1, "maximum")])
def test_a_minimum_needs_that_no_smaller_value_was_missed(sign, verdict):
    """Beyond none_below, and none_above, nothing lies; what they leave open may be of the other sign."""
    answer = Spectrum(k=1)(quadratic(rotated([sign * v for v in (5.0, 3.0, 1.0, 0.5)])))
    end = "none_below" if sign > 0 else "none_above"
    tolerance = answer.tolerance.item()
    for bound, expected in ((0.7, verdict), (-0.5 * tolerance, verdict), (-2 * tolerance, "undecided")):
        answer[end] = sign * bound
        assert judge(answer)[0] == expected, bound
    answer[end] = -sign * 0.25
    reason = judge(answer)[1]
    assert (
        f"and none lies {end[5:]} {-sign * 0.25} with probability 99%; one nearer zero may have been missed" in reason
    )
    assert f"smallest {answer.eigenvalue.values[1, 0]:.3g}" in reason
    answer[end] = -sign * np.inf
    assert judge(answer)[0] == "undecided"
    assert "the products ended before it was looked for; raise max_matvecs" in judge(answer)[1]
    assert judge(answer.drop_vars(["none_below", "none_above"]))[0] == verdict  # an answer that does not say


@pytest.mark.parametrize(("sign", "verdict"), [(1, "minimum"), (-1, "maximum")])
def test_an_end_within_its_error_of_zero_is_undecided(sign, verdict):
    answer = Spectrum(k=1)(quadratic(rotated([sign * v for v in (5.0, 3.0, 1.0, 0.5)])))
    end = {"end": "smallest" if sign > 0 else "largest", "rank": 0}
    for residual, expected in ((0.4, verdict), (0.6, "undecided")):
        answer["residual"].loc[end] = residual
        assert judge(answer)[0] == expected
    assert "cannot be told from zero" in judge(answer)[1]


def test_products_that_end_before_a_second_look_prove_no_minimum():
    """The ends have converged after 8 products, but with those alone nothing is known of what one vector missed."""
    answer = Spectrum(k=1, tol=0.1, max_matvecs=8)(quadratic(rotated(WELL)))
    assert answer.converged.all() and answer.none_below.item() == -np.inf
    assert answer.attrs["verdict"] == "undecided"
    assert "raise max_matvecs" in answer.attrs["verdict_reason"]
    assert Spectrum(k=1, tol=0.1)(quadratic(rotated(WELL))).attrs["verdict"] == "minimum"


def test_a_small_negative_value_within_its_error_proves_nothing():
    answer = Spectrum(k=1)(quadratic(rotated([*LONG, 9.0, -1.0])))
    assert judge(answer)[0] == "saddle"
    answer["residual"].loc[{"end": "smallest"}] = 1.5
    assert judge(answer)[0] == "undecided"
    answer["converged"][:] = False
    verdict, reason = judge(answer)
    assert verdict == "undecided"
    assert "have not converged" in reason


def test_a_budget_that_ends_early_is_undecided():
    answer = Spectrum(k=2, tol=1e-9, max_matvecs=5)(quadratic(rotated(LONG)))
    assert not answer.converged.values.all()
    assert answer.attrs["verdict"] == "undecided"
    assert answer.num_matvecs.item() == 5 + 1


def test_a_network_has_both_ends_of_its_dense_hessian():
    model, data = network("attention")
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = Spectrum(k=3, tol=1e-6)(objective)
    exact = torch.linalg.eigvalsh(oracles.dense_hessian(model, data)).numpy()
    assert np.allclose(answer.eigenvalue.sel(end="largest"), exact[::-1][:3], atol=1e-6)
    assert np.allclose(answer.eigenvalue.sel(end="smallest"), exact[:3], atol=1e-6)
    assert answer.gradient_norm.item() == pytest.approx(oracles.gradient(model, data).norm().item(), rel=1e-10)
    assert answer.loss.item() == objective.loss().item()
    assert answer.end.values.tolist() == ["largest", "smallest"]
    assert answer["rank"].values.tolist() == [0, 1, 2]
    eps = torch.finfo(torch.float64).eps
    assert answer.tolerance.item() == pytest.approx(100 * eps * np.abs(exact).max(), rel=1e-3)


def test_a_block_has_its_own_spectrum():
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = Spectrum(k=2, parameters="fc.*")(objective)
    kept = torch.cat([torch.full((p.numel(),), n.startswith("fc.")) for n, p in model.named_parameters()])
    exact = torch.linalg.eigvalsh(oracles.dense_hessian(model, data)[kept][:, kept]).flip(0)
    assert np.allclose(answer.eigenvalue.sel(end="largest"), exact[:2], atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_up_to_all_eigenvalues(k):
    answer = Spectrum(k=k)(quadratic(rotated([4.0, 3.0, 2.0, 1.0])))
    assert answer.eigenvalue.sel(end="largest").values == pytest.approx([4, 3, 2, 1][:k])
    assert answer.eigenvalue.sel(end="smallest").values == pytest.approx([1, 2, 3, 4][:k])


def test_one_parameter_has_one_eigenvalue():
    answer = Spectrum(k=1)(quadratic(torch.tensor([[3.0]], dtype=torch.float64)))
    assert answer.eigenvalue.values.ravel().tolist() == pytest.approx([3, 3])
    assert answer.attrs["verdict"] == "minimum"


def test_refusals():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        Spectrum(k=0)
    for tol in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="tol must lie between 0 and 1"):
            Spectrum(tol=tol)
    with pytest.raises(ValueError, match="max_matvecs must be at least 2 k = 20, got 19"):
        Spectrum(max_matvecs=19)
    with pytest.raises(ValueError, match="k must lie between 1 and the number of parameters 2, got 3"):
        Spectrum(k=3)(quadratic(rotated([1.0, 2.0])))


def test_an_answer_is_a_data_set():
    assert isinstance(Spectrum(k=1)(quadratic(rotated([1.0, 2.0]))), xr.Dataset)


def test_a_killed_spectrum_goes_on_with_the_same_bits():
    objective, probe = quadratic(rotated([*LONG, 9.0, -3.0])), Spectrum(k=3)
    whole, journal = probe(objective), InterruptedJournal(most=17)
    with pytest.raises(KeyboardInterrupt), execution.working(Work(SerialExecutor(), journal)):
        probe(objective)
    kept, journal.most = len(journal.pieces), None
    assert kept == 17
    passes = objective.num_passes
    with execution.working(Work(SerialExecutor(), journal)):
        assert probe(objective).identical(whole)
    assert objective.num_passes - passes == whole.num_matvecs.item() - kept + 2  # the loss and the gradient


def test_nothing_lies_beyond_what_the_spectrum_says():
    answer = Spectrum(k=2)(quadratic(rotated([*LONG, 9.0, -3.0])))
    assert -3 <= answer.none_below.item() <= 0.1
    assert 1 <= answer.none_above.item() <= 9
    assert json.loads(answer.attrs["products"])["graphs_kept"] >= 1


@pytest.mark.parametrize("name", ["gauss-newton", "fisher", "empirical-fisher"])
def test_other_matrices_have_their_own_spectra_and_no_verdict(name):
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    kinds = {"gauss-newton": GaussNewton, "fisher": Fisher, "empirical-fisher": EmpiricalFisher}
    exact = torch.linalg.eigvalsh(kinds[name](objective).dense()).flip(0)
    answer = Spectrum(k=3, operator=name)(objective)
    assert answer.eigenvalue.sel(end="largest").values == pytest.approx(exact[:3].numpy(), abs=1e-3 * exact[0].item())
    assert answer.eigenvalue.min().item() > -1e-12 * exact[0].item()
    assert "verdict" not in answer.attrs
    assert answer.eigenvalue.attrs["long_name"] == f"eigenvalue of the {TITLES[name]}"
    hessian = Spectrum(k=3)(objective)
    assert not np.allclose(hessian.eigenvalue, answer.eigenvalue, rtol=1e-2)


def test_the_preconditioned_spectrum_is_that_of_the_optimizers_metric():
    model, data = network("perceptron")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    objective = Objective(model, data, loss=F.cross_entropy, optimizer=optimizer)
    metric = objective.optimizer_state.on(objective.layout).preconditioner
    scaled = Hessian(objective).dense() / (metric[:, None] * metric[None]).sqrt()
    exact = torch.linalg.eigvalsh(scaled).flip(0)
    answer = Spectrum(k=2, operator="preconditioned")(objective)
    assert answer.eigenvalue.sel(end="largest").values == pytest.approx(exact[:2].numpy(), rel=1e-3)
    assert "verdict" in answer.attrs
    assert Spectrum(operator="preconditioned").uses_optimizer
    assert not Spectrum().uses_optimizer
    plain = Objective(model, data, loss=F.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="gradient descent has no metric to precondition with"):
        Spectrum(operator="preconditioned")(plain)


def test_an_operator_that_is_none():
    for probe in (Spectrum, Trace, SpectralDensity):
        with pytest.raises(ValueError, match=r"operator must be one of hessian, gauss-newton, .* got 'hesse'"):
            probe(operator="hesse")
