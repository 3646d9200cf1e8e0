from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from landscape import eigen
from landscape.eigen import eigenpairs, fix_signs
from landscape.lanczos import Lanczos
from landscape.objective import Objective
from landscape.operators import Hessian
from tests import oracles
from tests.problems import Matrix, built, network, quadratic, rotated, seeded

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
    monkeypatch.setattr(eigen._Look, "suffices", lambda *arguments: True)
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
    original = Lanczos.restart
    monkeypatch.setattr(
        Lanczos, "restart", lambda lanczos, small: (restarts.append(small.shape[1]), original(lanczos, small))
    )
    spectrum = SPECTRA["plus and minus"]
    for which in eigen.ENDS:
        restarts.clear()
        pairs = eigenpairs(Matrix(rotated(spectrum)), k=4, which=which, tol=1e-6, max_basis=20, max_matvecs=2000)
        assert len(restarts) > 3
        assert 10 in restarts
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
    assert operator.num_matvecs == pairs.num_matvecs == 12 + 1  # one product checks the residuals
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
    for k in (0, SIZE + 1, 2.5):
        with pytest.raises(ValueError, match=f"k must lie between 1 and the number of parameters {SIZE}, got {k}"):
            eigenpairs(operator, k=k)
    for tol in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tol must be positive and finite"):
            eigenpairs(operator, k=1, tol=tol)
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
    lanczos = Lanczos(Matrix(matrix), seed=0, max_basis=60)
    lanczos.start_again()

    def extend(steps: int) -> None:
        for _ in range(steps):
            lanczos.step()

    extend(12)
    for _ in range(fresh_starts):
        lanczos.start_again()
        extend(7)
    for steps in (0, None, 1, 5):
        if steps is None:
            lanczos.restart(torch.linalg.eigh(lanczos.projected()).eigenvectors[:, -10:])
        else:
            extend(steps)
        values, small = torch.linalg.eigh(lanczos.projected())
        ritz = lanczos.ritz_vectors(small)
        true = matrix @ ritz - ritz * values
        bounds = lanczos.errors(small)
        assert (true.norm(dim=0) <= bounds + 1e-10 * values.abs().max()).all()  # float64 rounding
        assert torch.allclose(
            true, lanczos.rests() @ lanczos.couplings() @ small, atol=1e-10 * values.abs().max().item()
        )


def test_the_direction_is_followed_that_the_wanted_pairs_need():
    matrix = rotated(SPECTRA["outliers"])
    lanczos = Lanczos(Matrix(matrix), seed=0, max_basis=60)
    lanczos.begin(torch.randn(len(matrix), 3, generator=seeded(1), dtype=torch.float64))
    wanted = torch.zeros(0, 1, dtype=torch.float64)
    for size in (1, 2, 3):
        lanczos.step(wanted)
        assert lanczos.size == size
        wanted = torch.linalg.eigh(lanczos.projected()).eigenvectors[:, -1:]
    assert len(lanczos.pending) == 3
    needed = lanczos.pending[int((lanczos.couplings() @ wanted).abs().argmax())][0]
    lanczos.step(wanted)
    assert abs(lanczos.basis[3] @ needed) > 0.9


class Wrong(Matrix):
    """A matrix whose products go wrong from some product on."""

    def __init__(self, matrix, after, error=1e-2):
        super().__init__(matrix)
        self.after, self.error = after, error

    def matmat(self, V):
        exact = super().matmat(V)
        return exact * (1 + self.error) if self.num_matvecs > self.after else exact


def test_one_product_finds_residuals_that_are_not_true():
    """What changes under way is seen by the check, and the residuals are then those of the matrix as it is now."""
    matrix = rotated(SPECTRA["outliers"])
    needed = eigenpairs(Matrix(matrix), k=4).num_matvecs
    operator = Wrong(matrix, after=needed - 1)
    pairs = eigenpairs(operator, k=4, max_matvecs=needed - 1)
    assert operator.num_matvecs == pairs.num_matvecs == needed + 4
    check(pairs, matrix * (1 + operator.error), 1e-3)
    small = eigenpairs(Wrong(matrix, after=needed - 1, error=1e-5), k=4, max_matvecs=needed - 1)
    assert small.num_matvecs == needed
    assert small.residuals.max() > 1e-6 * small.scale  # and what it finds is added


def test_the_check_is_one_product_where_nothing_is_wrong():
    """Ten outliers of a network's kind: about 25 steps, 8 for the second look, 1 for the check."""
    matrix = rotated(padded([90, 46, 29, 22, 16, 14, 8.6, 7.8, 4.5, 3.4], BULK))
    operator = Matrix(matrix)
    pairs = eigenpairs(operator, k=10)
    check(pairs, matrix, 1e-3)
    assert operator.num_matvecs == pairs.num_matvecs < 40


@pytest.mark.parametrize("which", eigen.ENDS)
@pytest.mark.parametrize("name", ["outliers", "multiple at both ends", "plus and minus", "all negative", "rank one"])
def test_nothing_lies_beyond_what_was_seen(name, which):
    spectrum = sorted(SPECTRA[name], reverse=True)
    matrix = rotated(spectrum)
    for seed in range(5):
        pairs = eigenpairs(Matrix(matrix), k=6, which=which, seed=seed)
        bottom = {"largest": 0, "smallest": 6, "both": 3}[which]
        others = spectrum[6 - bottom : len(spectrum) - bottom]
        rounding = 1e-12 * pairs.scale
        assert pairs.none_below - rounding <= min(others) <= max(others) <= pairs.none_above + rounding
        if which != "smallest":  # and the bound is worth having
            assert pairs.none_above <= pairs.values[5 - bottom] + 0.5 * pairs.scale
        if which != "largest":
            assert pairs.none_below >= pairs.values[6 - bottom] - 0.5 * pairs.scale


def test_nothing_is_known_of_others_before_a_second_look():
    pairs = eigenpairs(Matrix(rotated(SPECTRA["plus and minus"])), k=5, tol=1e-8, max_matvecs=12)
    assert (pairs.none_below, pairs.none_above) == (-float("inf"), float("inf"))


def test_where_all_is_known_the_bounds_are_exact():
    pairs = eigenpairs(Matrix(rotated([5.0, 4, 3, 2, 1])), k=2)
    assert (pairs.none_below, pairs.none_above) == pytest.approx((1, 3))
    pairs = eigenpairs(Matrix(rotated([5.0, 4])), k=2)
    assert (pairs.none_below, pairs.none_above) == (float("inf"), -float("inf"))
    matrix = rotated(BULK)
    pairs = eigenpairs(Matrix(matrix), k=70, max_basis=SIZE, max_matvecs=1000, tol=1e-12)
    assert (pairs.none_below, pairs.none_above) == pytest.approx((-0.5, BULK[-71].item()))


def lanczos_values(diagonal: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
    """Ritz values of a run with a random start, with full reorthogonalization, by the textbook."""
    start = torch.randn(len(diagonal), generator=seeded(seed), dtype=torch.float64)
    columns = [start / start.norm()]
    for _ in range(steps - 1):
        rest = diagonal * columns[-1]
        Q = torch.stack(columns, dim=1)
        for _ in range(2):
            rest = rest - Q @ (Q.T @ rest)
        columns.append(rest / rest.norm())
    Q = torch.stack(columns, dim=1)
    return torch.linalg.eigvalsh(Q.T @ (diagonal[:, None] * Q))


def test_the_extremes_are_bounded_as_often_as_promised():
    diagonal = torch.linspace(-1, 2, 400, dtype=torch.float64)
    tight = 0
    for seed in range(200):
        low, high = eigen.extremes(lanczos_values(diagonal, 20, seed), 400)
        assert low <= -1
        assert high >= 2
        tight += high < 2.3
    assert tight == 200
    assert eigen.extremes(torch.ones(2), 400) == (-float("inf"), float("inf"))
    assert eigen.extremes(torch.ones(0), 400) == (-float("inf"), float("inf"))
    assert eigen.extremes(torch.tensor([1.0, 2.0]), 2) == (1, 2)


def test_a_start_near_the_eigenvectors_saves_products():
    matrix = rotated(SPECTRA["tight cluster at the top"])
    cold = eigenpairs(Matrix(matrix), k=5, tol=1e-5)
    near = rotated(SPECTRA["tight cluster at the top"]) + 1e-4 * rotated(SPECTRA["outliers"], seed=1)
    start = torch.linalg.eigh(near).eigenvectors[:, -5:]
    warm = eigenpairs(Matrix(matrix), k=5, tol=1e-5, start=start)
    check(warm, matrix, 1e-5)
    assert torch.allclose(warm.values, cold.values, atol=1e-5 * cold.scale)
    assert warm.num_matvecs < cold.num_matvecs


def test_a_start_that_misses_is_no_harm():
    """A start inside an invariant subspace cannot find what lies outside; the second look does."""
    matrix = rotated(SPECTRA["outliers"])
    bottom = torch.linalg.eigh(matrix).eigenvectors[:, :3]
    pairs = eigenpairs(Matrix(matrix), k=2, start=torch.cat([bottom, bottom[:, :1]], dim=1))
    check(pairs, matrix, 1e-3)
    assert pairs.values.tolist() == pytest.approx([9, 7], abs=1e-4)


def test_breakdown_in_a_small_basis_goes_on():
    """Rank 20 of 300, a basis of k + 2: all that was followed may be dropped at a restart."""
    matrix = rotated([1.0] * 20 + [0.0] * 280)
    for k, which in ((5, "largest"), (5, "smallest"), (4, "both")):
        pairs = eigenpairs(Matrix(matrix), k=k, which=which, max_basis=k + 2)
        check(pairs, matrix, 1e-3)
        assert pairs.converged.all()


def test_residuals_are_not_smaller_than_they_are():
    """Rounding of float32 products and vectors is part of them; the check estimates it."""
    matrix = rotated(SPECTRA["outliers"])
    for seed in range(10):
        pairs = eigenpairs(Matrix(matrix.float()), k=5, tol=1e-4, max_matvecs=120, seed=seed, max_basis=120)
        V = pairs.vectors.double()
        true = (matrix @ V - V * pairs.values).norm(dim=0)
        assert (pairs.residuals >= 0.9 * true).all()


def test_start_vectors_that_cannot_be_used():
    operator = Matrix(rotated(BULK))
    for start in (torch.ones(SIZE), torch.ones(SIZE - 1, 1), torch.ones(SIZE, 0), torch.full((SIZE, 1), float("nan"))):
        with pytest.raises(ValueError, match="start must hold finite vectors as columns of"):
            eigenpairs(operator, k=1, start=start)
    with pytest.raises(ValueError, match="a start vector is zero; leave it out"):
        eigenpairs(operator, k=1, start=torch.zeros(SIZE, 1))
