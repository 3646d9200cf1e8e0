from __future__ import annotations

import pytest
import torch

from landscape.eigen import eigenpairs
from landscape.operators import Hessian, Preconditioned
from tests.problems import quadratic, rotated, seeded

VALUES = torch.linspace(-1, 4, 120, dtype=torch.float64)


def scales(size: int = 120) -> torch.Tensor:
    return torch.rand(size, generator=seeded(0), dtype=torch.float64) * 3 + 0.01


def test_its_spectrum_is_that_of_the_product_of_inverse_and_matrix():
    A, P = rotated(VALUES), scales()
    operator = Preconditioned(Hessian(quadratic(A)), P)
    exact = torch.linalg.eigvals(torch.diag(1 / P) @ A).real.sort().values
    assert torch.allclose(torch.linalg.eigvalsh(operator.dense()), exact, atol=1e-11)
    assert (operator.dense() - operator.dense().T).abs().max() < 1e-13


def test_its_eigenvectors_stand_for_those_of_the_product():
    A, P = rotated(VALUES), scales()
    pairs = eigenpairs(Preconditioned(Hessian(quadratic(A)), P), k=2, tol=1e-8)
    for value, u in zip(pairs.values, pairs.vectors.T, strict=True):
        v = u / P.sqrt()
        assert (A @ v / P - value * v).norm() < 1e-6 * value * v.norm()


def test_ones_change_nothing_and_float32_stays():
    H = Hessian(quadratic(rotated(VALUES).float()))
    operator = Preconditioned(H, torch.ones(120))
    V = torch.randn(120, 3, generator=seeded(1))
    assert operator.dtype == torch.float32 and torch.equal(operator @ V, H @ V)


def test_extreme_scales_are_kept_in_float64():
    """sqrt(1e-60) is far below what float32 holds; the diagonal of an unused parameter under Adam is eps."""
    P = torch.tensor([1e-60, 1.0], dtype=torch.float64)
    operator = Preconditioned(Hessian(quadratic(torch.eye(2, dtype=torch.float64))), P)
    assert torch.allclose(operator.dense(), torch.diag(1 / P))


@pytest.mark.parametrize(
    ("diagonal", "message"),
    [
        (torch.ones(3), r"a diagonal of 2 entries, one a parameter, got shape \(3,\)"),
        (torch.ones(2, 1), r"got shape \(2, 1\)"),
        (torch.tensor([1.0, 0.0]), "positive and finite, its entry 1 is 0.0"),
        (torch.tensor([-1.0, 1.0]), "its entry 0 is -1.0"),
        (torch.tensor([1.0, torch.nan]), "its entry 1 is nan"),
        (torch.tensor([1.0, torch.inf]), "its entry 1 is inf"),
    ],
)
def test_refusals(diagonal, message):
    with pytest.raises(ValueError, match=message):
        Preconditioned(Hessian(quadratic(rotated([2.0, 1.0]))), diagonal)
