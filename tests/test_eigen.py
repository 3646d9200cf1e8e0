from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from landscape import eigen
from landscape.eigen import eigenpairs, fix_signs
from landscape.objective import Objective
from landscape.operators import Hessian
from tests import oracles
from tests.problems import Matrix, built, network, quadratic, rotated

SIZE = 150  # more than are written out, so that Lanczos runs


def padded(head, bulk) -> list[float]:
    return [*map(float, head), *bulk.tolist()]


BULK = torch.linspace(-0.5, 1, SIZE, dtype=torch.float64)
SPECTRA = {
    "outliers": padded([9, 7, 5, 3, 2], BULK),
    "one huge outlier": padded([1e4], BULK),
    "tight cluster at the top": padded([10 + 1e-3 * n for n in range(5)], BULK),
    "multiple at the top": padded([5, 5, 5, 4, 3], BULK),
    "multiple at both ends": padded([5, 5, 5, 4, -4, -4, -4], BULK),
    "few distinct values": [5.0] * 3 + [4.0] * 40 + [3.0] * 50 + [-2.0] * 20 + [1.0] * 37,
    "identity": [1.0] * SIZE,
    "zero": [0.0] * SIZE,
    "rank one": [3.0] + [0.0] * SIZE,
    "negative rank one": [-3.0] + [0.0] * SIZE,
    "geometric": torch.logspace(0, -12, SIZE, dtype=torch.float64).tolist(),
    "plus and minus": [s * v for v in torch.linspace(0.1, 7, SIZE // 2).tolist() for s in (1, -1)],
    "all negative": (BULK - 3).tolist(),
}


def wanted(spectrum, k: int, which: str) -> torch.Tensor:
    values = torch.tensor(sorted(spectrum, reverse=True), dtype=torch.float64)
    bottom = {"largest": 0, "smallest": k, "both": k // 2}[which]
    return torch.cat([values[: k - bottom], values[len(values) - bottom :]])


def check(pairs, matrix, tol: float) -> None:
    """What holds for every answer: true residuals, orthonormal vectors, errors within them, fixed signs."""
    V, exact = pairs.vectors.double(), matrix.double()
    residuals = (exact @ V - V * pairs.values).norm(dim=0)
    norm = torch.linalg.matrix_norm(exact, 2).item()
    rounding = 100 * torch.finfo(pairs.vectors.dtype).eps * max(norm, 1e-300)
    assert (residuals - pairs.residuals).abs().max() <= rounding
    assert (V.T @ V - torch.eye(V.shape[1], dtype=V.dtype)).abs().max() < 100 * torch.finfo(pairs.vectors.dtype).eps
    nearest = (torch.linalg.eigvalsh(exact)[:, None] - pairs.values).abs().min(dim=0).values
    assert (nearest <= pairs.residuals + rounding).all()  # |theta - lambda| <= r, Weyl
    assert pairs.converged.tolist() == (pairs.residuals <= tol * pairs.scale).tolist()
    assert (pairs.values.diff() <= 0).all()
    assert (V.gather(0, V.abs().argmax(dim=0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("which", eigen.ENDS)
@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name, which):
    spectrum = SPECTRA[name]
    matrix = rotated(spectrum)
    operator = Matrix(matrix)
    pairs = eigenpairs(operator, k=5, which=which, tol=1e-6)
    check(pairs, matrix, 1e-6)
    assert pairs.converged.all()
    # Residuals of 1e-6 of the norm bound the error.
    assert (pairs.values - wanted(spectrum, 5, which)).abs().max() <= 1e-6 * pairs.scale
    assert pairs.num_matvecs == operator.num_matvecs <= 20 * 5 + 300 + 5


def test_no_ghosts_without_and_with_float32():
    """A simple eigenvalue appears once: without reorthogonalization 4 to 32 copies were counted."""
    matrix = rotated(padded([100, 50], BULK)).float()
    pairs = eigenpairs(Matrix(matrix), k=8, tol=1e-5, max_matvecs=150)
    check(pairs, matrix, 1e-5)
    assert (pairs.values > 2).sum() == 2


def test_copies_of_a_multiple_value_are_missed_without_a_second_look(monkeypatch):
    """Control: one start vector meets one vector of each eigenspace."""
    matrix = rotated(SPECTRA["multiple at the top"])
    monkeypatch.setattr(eigen, "_SECOND_LOOK", 0)
    monkeypatch.setattr(eigen._Lanczos, "start_again", lambda lanczos: None)
    assert eigenpairs(Matrix(matrix), k=3).values.tolist() == pytest.approx([5, 4, 3], abs=1e-3)
    monkeypatch.undo()
    assert eigenpairs(Matrix(matrix), k=3).values.tolist() == pytest.approx([5, 5, 5], abs=1e-3)


@pytest.mark.parametrize("scale", [2.0**-20, 1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_the_matrix_scales_the_values(scale, dtype):
    matrix = rotated(SPECTRA["outliers"]).to(dtype)
    plain, scaled = eigenpairs(Matrix(matrix)), eigenpairs(Matrix(matrix * scale))
    if scale == 2.0**-20:
        assert torch.equal(scaled.values, plain.values * scale)  # a power of two changes no mantissa
        assert torch.equal(scaled.vectors, plain.vectors)
    # Other factors round each entry of the matrix.
    assert torch.allclose(scaled.values / scale, plain.values, atol=100 * torch.finfo(dtype).eps * plain.scale)
    assert scaled.num_matvecs == plain.num_matvecs
    assert scaled.converged.all()


def test_a_small_basis_is_restarted_and_still_right(monkeypatch):
    restarts = []
    original = eigen._Lanczos.restart
    monkeypatch.setattr(
        eigen._Lanczos, "restart", lambda lanczos, small: (restarts.append(small.shape[1]), original(lanczos, small))
    )
    spectrum = SPECTRA["plus and minus"]
    for which in eigen.ENDS:
        restarts.clear()
        pairs = eigenpairs(Matrix(rotated(spectrum)), k=4, which=which, tol=1e-6, max_basis=20, max_matvecs=2000)
        assert len(restarts) > 3
        assert set(restarts) == {10}
        assert pairs.converged.all()
        assert (pairs.values - wanted(spectrum, 4, which)).abs().max() < 1e-6 * pairs.scale


def test_the_smallest_basis_still_converges():
    matrix = rotated(SPECTRA["outliers"])
    pairs = eigenpairs(Matrix(matrix), k=2, max_basis=4, max_matvecs=500)
    check(pairs, matrix, 1e-3)
    assert pairs.converged.all()
    assert pairs.values.tolist() == pytest.approx([9, 7], abs=1e-4)


def test_what_has_not_converged_when_the_budget_ends_is_marked():
    matrix = rotated(SPECTRA["plus and minus"])
    operator = Matrix(matrix)
    pairs = eigenpairs(operator, k=5, tol=1e-8, max_matvecs=12)
    check(pairs, matrix, 1e-8)
    assert not pairs.converged.any()
    assert operator.num_matvecs == pairs.num_matvecs == 12 + 5  # the residuals take k more
    assert pairs.residuals.min() > 1e-8 * pairs.scale


@pytest.mark.parametrize("size", [1, 2, 3, 60, 100])
@pytest.mark.parametrize("which", eigen.ENDS)
def test_small_problems_give_all_pairs(size, which):
    spectrum = torch.linspace(-2, 3, size, dtype=torch.float64).tolist()
    matrix = rotated(spectrum)
    for k in {1, size}:
        pairs = eigenpairs(Matrix(matrix), k=k, which=which)
        check(pairs, matrix, 1e-3)
        assert torch.allclose(pairs.values, wanted(spectrum, k, which), atol=1e-13)


@pytest.mark.parametrize("k", [SIZE, SIZE - 1, SIZE // 2 + 1])
def test_many_pairs_of_a_larger_problem(k):
    matrix = rotated(BULK)
    pairs = eigenpairs(Matrix(matrix), k=k)
    assert torch.allclose(pairs.values, wanted(BULK.tolist(), k, "largest"), atol=1e-12)


def test_k_of_half_the_size_by_lanczos():
    matrix = rotated(BULK)
    pairs = eigenpairs(Matrix(matrix), k=70, max_basis=SIZE, max_matvecs=1000)  # the basis fills the space
    check(pairs, matrix, 1e-3)
    assert (pairs.values - wanted(BULK.tolist(), 70, "largest")).abs().max() < 1e-3


def test_the_seed_decides_and_the_answer_does_not_depend_on_it():
    matrix = rotated(SPECTRA["outliers"])
    first, again, other = (eigenpairs(Matrix(matrix), k=3, tol=1e-8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, other.vectors)
    assert torch.allclose(first.vectors, other.vectors, atol=1e-6)  # signs are fixed too


def test_the_sign_rule():
    columns = torch.tensor([[-3.0, 1.0, 0.0], [2.0, 5.0, 0.0]])
    assert fix_signs(columns).tolist() == [[3.0, 1.0, 0.0], [-2.0, 5.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_has_the_eigenvalues_of_its_dense_hessian(dtype):
    model, data = network("attention", dtype)
    H = Hessian(Objective(model, data, loss=F.cross_entropy))
    assert H.size > 100
    pairs = eigenpairs(H, k=6, which="both", tol=1e-4)
    model, data = network("attention")
    dense = oracles.dense_hessian(model, data)
    exact = torch.linalg.eigvalsh(dense).flip(0)
    assert torch.allclose(pairs.values, torch.cat([exact[:3], exact[-3:]]), atol=1e-4 * pairs.scale)
    V = pairs.vectors.double()
    true = (dense @ V - V * pairs.values).norm(dim=0)
    assert torch.allclose(pairs.residuals, true, atol=1e-5 * pairs.scale)  # float32 products: 6e-7 was measured


def test_top_means_algebraically_largest():
    matrix = rotated([1.0] + [-50.0 - n for n in range(SIZE)])
    assert eigenpairs(Matrix(matrix), k=1).values.item() == pytest.approx(1.0, abs=1e-2)


def test_a_quadratic_objective_end_to_end():
    pairs = eigenpairs(Hessian(quadratic(rotated(SPECTRA["outliers"]))), k=3)
    assert pairs.values.tolist() == pytest.approx([9, 7, 5], abs=1e-3)


def test_refusals():
    operator = Matrix(rotated(BULK))
    with pytest.raises(ValueError, match="which must be one of largest, smallest, both, got 'top'"):
        eigenpairs(operator, which="top")
    for k in (0, SIZE + 1):
        with pytest.raises(ValueError, match=f"k must lie between 1 and the number of parameters {SIZE}, got {k}"):
            eigenpairs(operator, k=k)
    with pytest.raises(ValueError, match="max_matvecs must be at least k=5, got 4"):
        eigenpairs(operator, k=5, max_matvecs=4)
    with pytest.raises(ValueError, match="max_basis must be at least k \\+ 2 = 7, got 6"):
        eigenpairs(operator, k=5, max_basis=6)


@pytest.mark.parametrize("size", [3, SIZE])
def test_a_product_that_is_not_finite_is_an_error(size):
    matrix = torch.full((size, size), float("inf"))
    with pytest.raises(RuntimeError, match="a Hessian product is not finite; the loss overflows here"):
        eigenpairs(Matrix(matrix), k=1)


def test_an_untrained_network_runs_in_float32_too():
    model = built(lambda: torch.nn.Sequential(torch.nn.Linear(5, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3)))
    data = (torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))
    assert eigenpairs(Hessian(Objective(model, data, loss=F.cross_entropy)), k=2).converged.all()


@pytest.mark.parametrize("fresh_starts", [0, 1, 2])
def test_the_error_bounds_hold_through_fresh_starts_and_restarts(fresh_starts):
    """A direction that is not followed yet still counts, or pairs would pass for converged that are not."""
    matrix = rotated(SPECTRA["outliers"])
    lanczos = eigen._Lanczos(Matrix(matrix), seed=0, max_basis=60)
    lanczos.extend(12)
    for _ in range(fresh_starts):
        lanczos.start_again()
        lanczos.extend(7)
    for steps in (0, None, 1, 5):
        if steps is None:
            lanczos.restart(torch.linalg.eigh(lanczos.projected()).eigenvectors[:, -10:])
        else:
            lanczos.extend(steps)
        values, small = torch.linalg.eigh(lanczos.projected())
        ritz = lanczos.ritz_vectors(small)
        true = (matrix @ ritz - ritz * values).norm(dim=0)
        bounds = lanczos.errors(small)
        assert (true <= bounds + 1e-10 * values.abs().max()).all()  # float64 rounding
        if not fresh_starts:
            assert torch.allclose(true, bounds, atol=1e-10 * values.abs().max().item())  # one direction: exact


def test_the_residuals_are_measured_once_where_nothing_is_missed(monkeypatch):
    measured = []
    original = eigen._measured
    monkeypatch.setattr(eigen, "_measured", lambda *arguments: measured.append(1) or original(*arguments))
    assert eigenpairs(Matrix(rotated(SPECTRA["outliers"])), k=4, which="both").converged.all()
    assert len(measured) == 1
