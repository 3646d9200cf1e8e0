"""Trace and Frobenius norm of a symmetric operator, whole or layer by layer, each with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt

import torch
from torch import Tensor

from landscape.eigen import Eigenpairs
from landscape.execution import report_progress
from landscape.intervals import mean_and_error, student_factor
from landscape.lanczos import finite
from landscape.operators import LinearOperator
from landscape.orthogonal import orthogonalize
from landscape.randomness import gaussian_columns

METHODS = ("krylov", "hutch++", "hutchinson")
_BLOCK = 16  # products asked for at once
_ROWS = 2**16  # of a basis that are in float64 at once
_LEAST = {"krylov": 4, "hutch++": 6, "hutchinson": 2}  # products that leave two samples
_PILOT = 10  # products that say how many samples a wanted error takes
_FEWEST = 10  # samples below which Student's interval is not to be trusted
_LEAST_COLUMNS = 20  # of a basis that is grown for a wanted error, where there are outliers
_MOST_SAMPLES = 10_000
_REACH = 1.3  # standard deviations of the variance of the samples that are planned for, to reach the wanted error


@dataclass(frozen=True)
class TraceEstimate:
    """A trace with its error, and what the same products say about the Frobenius norm.

    The error is that of the samples, given the part that was computed exactly: `value` ± `standard_error`, and an
    interval by Student's t that holds the trace in a share `confidence` of all seeds. Nothing was sampled
    (`num_samples` 0) where the trace is exact.

    Attributes:
        value: The estimate.
        standard_error: Of the value.
        interval: Low and high end.
        confidence: What share of intervals made so hold the trace.
        num_matvecs: Products spent.
        method: How the exact part was found.
        num_samples: Independent samples n; Student's t has n - 1 degrees of freedom.
        exact: The part of the trace that was computed exactly.
        basis_size: Dimension of the space on which it was.
        frobenius_norm: Square root of an unbiased estimate of ||H||_F^2.
        frobenius_interval: Low and high end, of the same confidence.
        reached: Whether the interval is as narrow as `rtol` asked for; None where nothing was asked.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    num_matvecs: int
    method: str
    num_samples: int
    exact: float
    basis_size: int
    frobenius_norm: float
    frobenius_interval: tuple[float, float]
    reached: bool | None = None


@dataclass(frozen=True)
class BlockTraces:
    """The trace of every diagonal block, from the same products.

    The blocks share their vectors, so their errors are not independent of each other.

    Attributes:
        names: The blocks.
        values: (B,) float64.
        standard_errors: (B,) float64.
        intervals: (B, 2) float64, low and high ends by Student's t, each for its block alone.
        confidence: What share of intervals made so hold the trace.
        num_matvecs: Products spent, for all blocks together.
        num_samples: Independent samples n; Student's t has n - 1 degrees of freedom. 0: the values are exact.
    """

    names: tuple[str, ...]
    values: Tensor
    standard_errors: Tensor
    intervals: Tensor
    confidence: float
    num_matvecs: int
    num_samples: int


def trace(
    operator: LinearOperator,
    num_matvecs: int | None = None,
    method: str = "krylov",
    seed: int = 0,
    deflate: Tensor | Eigenpairs | None = None,
    confidence: float = 0.95,
    rtol: float | None = None,
    max_basis: int = 256,
) -> TraceEstimate:
    """Estimate tr H: exactly on a subspace that holds the outliers, by random vectors on its complement.

    With Q an orthonormal basis, tr H = tr(Q^T H Q) + E[z^T H z], z uniform on the sphere of radius sqrt(P - j) in
    the complement of the j columns of Q. A sample has variance 2 d/(d + 2) (||A||_F^2 - tr(A)^2 / d), A being H
    on the d = P - j dimensions left, whatever its eigenvectors; so a few outliers in Q narrow the interval by orders
    of magnitude, and the identity has no error. Q depends on nothing that the samples depend on, and their number is
    fixed before they are drawn: that is what Student's interval needs.

    Methods differ in how they find Q with the given number of products m, beside what is deflated:
    ``hutchinson`` does not, m samples; ``hutch++`` takes the range of H S for m / 3 Gaussian columns S, which costs
    m / 3 products more, and m / 3 samples; ``krylov`` takes a block Krylov space of m / 2 columns, each of which costs
    a single product, and m / 2 samples. At equal products ``krylov`` had the smallest error of the three on every
    spectrum that decays (0.4 to 0.7 of Hutch++), and 1.4 times that of ``hutchinson`` on flat ones. XTrace is not
    offered: its samples are not independent, and its 95% intervals covered 80 to 92% on decaying spectra.

    Where `rtol` is given, 10 products on vectors of their own tell how many samples the wanted error takes; they are
    used for nothing else, so the coverage is that of a number fixed beforehand. ``krylov`` grows its basis as long as
    that saves more samples than it costs products. The interval may still come out wider than asked, which
    `reached` tells; it is never narrowed by stopping at a lucky moment.

    Where P products are enough for it, the matrix is written out and the trace is exact. Memory: as many vectors as Q
    has columns, and 16.

    Args:
        operator: The symmetric operator (P, P).
        num_matvecs: How many products to spend, at least 20 to trust the interval; default 100. With `rtol` the most
            that may be spent, default 10,000.
        method: ``krylov``, ``hutch++`` or ``hutchinson``.
        seed: Of the random vectors.
        deflate: Eigenpairs at hand, which cost no more products, or any orthonormal columns (P, j), which cost j.
        confidence: Of the interval.
        rtol: Half width of the interval that is wanted, relative to the trace; not for ``hutch++``.
        max_basis: Most columns that ``krylov`` may add to Q.

    Raises:
        ValueError: If a setting is out of its range, `deflate` does not fit or is not orthonormal, or the products
            do not suffice for two samples.
        RuntimeError: If a product is not finite.

    References:
        Meyer, Musco, Musco and Woodruff, "Hutch++: Optimal Stochastic Trace Estimation", SOSA 2021.
        Chen and Hallman, "Krylov-Aware Stochastic Trace Estimation", SIAM J. Matrix Anal. Appl. 44 (2023).
        Persson, Cortinovis and Kressner, "Improved Variants of the Hutch++ Algorithm", 2022, section 3, for growing
        a basis while it pays.
        Epperly, Tropp and Webber, "XTrace: Making the Most of Every Sample in Stochastic Trace Estimation", 2024.
    """
    check_settings(num_matvecs, method, seed, confidence, rtol, max_basis)
    budget = num_matvecs if num_matvecs is not None else 100 if rtol is None else _MOST_SAMPLES
    part = _Captured(operator, deflate)
    if operator.size <= budget - part.spent and rtol is None:
        return _written_out(operator, part.spent, confidence, None)
    if part.left == 0:
        return _estimate(part, Tensor(), Tensor(), method, confidence, None if rtol is None else 0.0)
    if budget - part.spent < _LEAST[method] + (_PILOT if rtol else 0):
        raise ValueError(
            f"{method} needs at least {_LEAST[method] + (_PILOT if rtol else 0)} products"
            f"{' and as many as deflate has columns' if part.spent else ''} to know its error, got "
            f"num_matvecs={budget}."
        )
    if rtol is None:
        _capture(part, method, budget, seed, max_basis)
        number = budget - part.spent
    else:
        number = _planned(part, method, budget, seed, confidence, rtol, max_basis)
        if operator.size <= min(number, budget - part.spent):
            return _written_out(operator, part.spent, confidence, True)
    values, squares = _sampled(part, number, seed)
    return _estimate(part, values, squares, method, confidence, rtol)


def block_traces(
    operator: LinearOperator,
    blocks: Mapping[str, Tensor | slice],
    num_matvecs: int = 100,
    method: str = "krylov",
    seed: int = 0,
    deflate: Tensor | Eigenpairs | None = None,
    confidence: float = 0.95,
    max_basis: int = 256,
) -> BlockTraces:
    """Estimate the trace of every diagonal block of H from the same products.

    With P' = I - Q Q^T, H = QQ^T H + H QQ^T - QQ^T H QQ^T + P' H P'. Of the first three the entries on the diagonal
    are known; of the last, z_b^T (H z)_b summed over the entries b of a block is unbiased for that block's trace, z as
    in `trace`. Its variance also has what couples the block with the others, 2 ||A_bb||_F^2 + sum_c ||A_bc||_F^2
    or less, A = P' H P': for one block alone its own operator needs fewer products, for all together this does.

    Args:
        operator: The symmetric operator (P, P).
        blocks: The entries of each block by name, as positions or a slice; they may leave entries out.
        num_matvecs: How many products to spend in all.
        method: How Q is found, see `trace`.
        seed: Of the random vectors.
        deflate: Eigenpairs or orthonormal columns (P, j); either costs j products here.
        confidence: Of each interval.
        max_basis: Most columns that ``krylov`` may add to Q. Twice as many vectors are kept, but no samples.

    Raises:
        ValueError: If a setting is out of its range, `deflate` does not fit, there are no blocks, or the products do
            not suffice for two samples.
        RuntimeError: If a product is not finite.
    """
    check_settings(num_matvecs, method, seed, confidence, None, max_basis)
    if not blocks:
        raise ValueError("blocks= needs at least one block, by name; got none.")
    if operator.size <= num_matvecs:
        known = _block_sums(blocks, finite(operator.dense()).double().diagonal()[:, None])
        return _block_estimate(blocks, known[:, 0], known[:, 1:], confidence, operator.size)
    part = _Captured(operator, deflate.vectors if isinstance(deflate, Eigenpairs) else deflate, keep_products=True)
    if num_matvecs - part.spent < _LEAST[method]:
        raise ValueError(
            f"{method} needs at least {_LEAST[method]} products beside those of deflate to know its error, got "
            f"num_matvecs={num_matvecs} with {part.spent} columns."
        )
    _capture(part, method, num_matvecs, seed, max_basis)
    known = _block_sums(blocks, _known_diagonal(part.basis, part.kept_products)[:, None])
    drawn = []
    for numbers in _cut(num_matvecs - part.spent):
        z = part.vectors(numbers, seed, "sample")
        drawn.append(_block_sums(blocks, z.double() * part.project(part.multiply(z)).double()))
    return _block_estimate(blocks, known[:, 0], torch.cat(drawn, dim=1), confidence, part.spent)


# --- the part that is computed exactly -----------------------------------------------------------------------


class _Captured:
    """An orthonormal basis Q with what the products H Q say of H off its complement.

    Attributes:
        trace: tr(Q^T H Q).
        squares: The sum of squares of all of H but its compression to the complement, 2 ||H Q||^2 - ||Q^T H Q||^2.
    """

    def __init__(
        self, operator: LinearOperator, deflate: Tensor | Eigenpairs | None = None, keep_products: bool = False
    ):
        self.operator = operator
        self.spent, self.size, self.trace, self.squares = 0, 0, 0.0, 0.0
        self.columns = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)  # rows, to grow
        self.products: list[Tensor] | None = [] if keep_products else None
        if isinstance(deflate, Eigenpairs):
            self._append(_orthonormal(operator, deflate.vectors))
            self.trace = deflate.values.sum().item()
            # H v = lambda v + r with r orthogonal to v.
            self.squares = (deflate.values.square() + 2 * deflate.residuals.square()).sum().item()
        elif deflate is not None:
            Q = _orthonormal(operator, deflate)
            for columns in Q.split(_BLOCK, dim=1):
                self.add(columns, self.multiply(columns))

    @property
    def basis(self) -> Tensor:
        """(P, j)."""
        return self.columns[: self.size].T

    @property
    def kept_products(self) -> Tensor:
        """(P, j) H Q."""
        return torch.cat([torch.empty(self.operator.size, 0).to(self.basis), *(self.products or [])], dim=1)

    @property
    def left(self) -> int:
        """Dimension d of the complement."""
        return self.operator.size - self.size

    def multiply(self, V: Tensor) -> Tensor:
        self.spent += V.shape[1]
        return finite(self.operator.matmat(V))

    def add(self, Q: Tensor, HQ: Tensor) -> None:
        self._append(Q)
        self.trace += (Q.double() * HQ.double()).sum().item()
        inside = (self.basis.T @ HQ).double()
        twice = 2 * HQ.double().square().sum() - 2 * inside.square().sum()
        self.squares += (twice + inside[-Q.shape[1] :].square().sum()).item()
        if self.products is not None:
            self.products.append(HQ)

    def project(self, V: Tensor) -> Tensor:
        """Take from columns what lies in the basis; twice, so that rounding leaves nothing."""
        return orthogonalize(V, self.columns[: self.size])[0]

    def vectors(self, numbers: Sequence[int], seed: int, stream: str) -> Tensor:
        """Draw columns (P, K) uniform on the sphere of radius sqrt(d) in the complement."""
        drawn = gaussian_columns(self.operator.size, numbers, seed, f"trace {stream}")
        z = self.project(drawn.to(self.operator.device, self.operator.dtype))
        return z * (sqrt(self.left) / z.double().norm(dim=0)).to(z.dtype)

    def independent(self, V: Tensor, scale: Tensor | float) -> Tensor:
        """An orthonormal basis of what columns have outside the basis, without what is rounding beside `scale`."""
        U, lengths, _ = torch.linalg.svd(self.project(V), full_matrices=False)
        noise = 100 * torch.finfo(V.dtype).eps * scale
        return torch.linalg.qr(self.project(U[:, lengths > noise][:, : self.left])).Q

    def _append(self, Q: Tensor) -> None:
        while self.size + Q.shape[1] > len(self.columns):
            more = min(max(len(self.columns), 2 * _BLOCK), self.operator.size)
            self.columns = torch.cat([self.columns, self.columns.new_empty(more, self.operator.size)])
        self.columns[self.size : self.size + Q.shape[1]] = Q.T
        self.size += Q.shape[1]


def _capture(part: _Captured, method: str, budget: int, seed: int, max_basis: int) -> None:
    """Spend a method's share of the products on the basis."""
    products = budget - part.spent
    if method == "hutch++":
        sketch = part.vectors(range(products // 3), seed, "sketch")
        image = torch.cat([part.multiply(columns) for columns in sketch.split(_BLOCK, dim=1)], dim=1)
        for Q in part.independent(image, image.norm()).split(_BLOCK, dim=1):
            part.add(Q, part.multiply(Q))
    elif method == "krylov":
        columns = min(products // 2, max_basis)
        growth = _Krylov(part, seed, min(max(columns // 10, 1), 8))
        while columns and (Q := growth.grow(columns)[0]).shape[1]:
            columns -= Q.shape[1]


class _Krylov:
    """Grows a basis by the block Krylov space of a random start, every column of which costs one product.

    Ten steps find outliers, so the block is a tenth of the columns wanted, and no more than eight.
    """

    def __init__(self, part: _Captured, seed: int, block: int):
        self.part = part
        self.scale = 0.0
        start = part.vectors(range(min(block, part.left)), seed, "start")
        self.next = part.independent(start, start.norm())

    def grow(self, most: int) -> tuple[Tensor, Tensor]:
        """Add the next block of at most so many columns; none when the space is invariant."""
        Q = self.next[:, :most]
        if not Q.shape[1]:
            return Q, Q
        HQ = self.part.multiply(Q)
        self.part.add(Q, HQ)
        self.scale = max(self.scale, HQ.double().norm().item())
        self.next = self.part.independent(HQ, self.scale)
        return Q, HQ


# --- the part that is sampled --------------------------------------------------------------------------------


def _sampled(part: _Captured, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw z^T H z and the square of what H z has in the complement, (n,) each in float64."""
    values, squares, before = [], [], part.spent
    for numbers in _cut(number):
        z = part.vectors(numbers, seed, "sample")
        product = part.project(part.multiply(z)).double()
        values.append((z.double() * product).sum(dim=0))
        squares.append(product.square().sum(dim=0))
        report_progress("products", part.spent, before + number)
    return torch.cat(values).cpu(), torch.cat(squares).cpu()


def _planned(
    part: _Captured, method: str, budget: int, seed: int, confidence: float, rtol: float, max_basis: int
) -> int:
    """Grow the basis while it pays and say how many samples reach the wanted error, within the budget.

    Products with vectors that are used for nothing else tell the variance; with the products of every new column they
    are known on the smaller complement too, at no cost.
    """
    z = part.vectors(range(_PILOT), seed, "pilot")
    Hz = part.multiply(z)
    first = best_at = part.spent
    number = needed = _needed(part, z, Hz, confidence, rtol)
    best = first + max(needed, _FEWEST)
    growth = _Krylov(part, seed, 2) if method == "krylov" else None
    while growth is not None and part.left:
        columns = part.spent - first
        most = min(max_basis - columns, budget - part.spent - _LEAST["hutchinson"])
        patience = max(4, min(20, needed / 5))
        pays = part.spent - best_at < patience and columns < max(needed, _FEWEST)
        # Few samples of what outliers are left are skewed, and their interval covers less than it says.
        outliers = columns < _LEAST_COLUMNS and needed < number / 2
        if most < 1 or not (pays or outliers):
            break
        Q, HQ = growth.grow(most)
        if not Q.shape[1]:
            break
        inside = Q.T @ z
        z, Hz = z - Q @ inside, Hz - HQ @ inside
        needed = _needed(part, z, Hz, confidence, rtol)
        if part.spent + max(needed, _FEWEST) < best:
            best, best_at = part.spent + max(needed, _FEWEST), part.spent
    return int(min(max(ceil(needed), _FEWEST), budget - part.spent))


def _needed(part: _Captured, z: Tensor, Hz: Tensor, confidence: float, rtol: float) -> float:
    """How many samples the wanted error takes, by a pilot's vectors and products.

    The variance is bounded by 2 (||A||_F^2 - tr(A)^2 / d), which ten products tell far better than ten samples tell
    their own variance; where that is tiny, by an upper bound on it.
    """
    from scipy.stats import chi2

    if not part.left:
        return 0.0
    lengths = z.double().square().sum(dim=0) / part.left
    values = (z.double() * Hz.double()).sum(dim=0) / lengths
    norm = (part.project(Hz).double().square().sum(dim=0) / lengths).mean().item()
    rest = values.mean().item()
    by_norm = 2 * max(norm - rest**2 / part.left, 0.0)
    by_samples = values.var().item() * (_PILOT - 1) / chi2.ppf(0.05, _PILOT - 1).item()
    variance, wanted = min(by_norm, by_samples), rtol * abs(part.trace + rest)
    if wanted == 0:
        return 0.0 if variance == 0 else float(_MOST_SAMPLES)
    number = float(_FEWEST)
    for _ in range(3):  # Student's factor depends on the number, a little
        number = variance * (student_factor(max(number, _FEWEST), confidence) / wanted) ** 2
    number = min(number, 1e12)
    return number + _REACH * sqrt(2 * number)


def _estimate(
    part: _Captured, values: Tensor, squares: Tensor, method: str, confidence: float, rtol: float | None
) -> TraceEstimate:
    mean, error = _mean(values)
    square, square_error = _mean(squares)
    factor = student_factor(len(values), confidence) if len(values) else 0.0
    value, half = part.trace + mean, factor * error
    total = part.squares + square
    bounds = [sqrt(max(total + sign * factor * square_error, part.squares)) for sign in (-1, 1)]
    return TraceEstimate(
        value=value,
        standard_error=error,
        interval=(value - half, value + half),
        confidence=confidence,
        num_matvecs=part.spent,
        method=method,
        num_samples=len(values),
        exact=part.trace,
        basis_size=part.size,
        frobenius_norm=sqrt(total),
        frobenius_interval=(bounds[0], bounds[1]),
        reached=None if rtol is None else half <= rtol * abs(value),
    )


def _known_diagonal(Q: Tensor, HQ: Tensor) -> Tensor:
    """(P,) float64, the diagonal of Q Q^T H + H Q Q^T - Q Q^T H Q Q^T from (P, j), some rows at a time."""
    inside = torch.zeros(Q.shape[1], Q.shape[1], dtype=torch.float64, device=Q.device)
    for q, hq in zip(Q.split(_ROWS), HQ.split(_ROWS), strict=True):
        inside += q.double().T @ hq.double()
    pairs = zip(Q.split(_ROWS), HQ.split(_ROWS), strict=True)
    return torch.cat([(q.double() * (2 * hq.double() - q.double() @ inside)).sum(dim=1) for q, hq in pairs])


def _block_sums(blocks: Mapping[str, Tensor | slice], entries: Tensor) -> Tensor:
    """Sum the rows of (P, n) over each block, (B, n)."""
    return torch.stack([entries[rows].sum(dim=0) for rows in blocks.values()]).cpu()


def _block_estimate(
    blocks: Mapping[str, Tensor | slice], known: Tensor, samples: Tensor, confidence: float, spent: int
) -> BlockTraces:
    """Add to each block's known part, (B,), the mean of its samples, (B, n)."""
    n = samples.shape[1]
    found = [(exact + mean, error) for exact, (mean, error) in zip(known.tolist(), map(_mean, samples), strict=True)]
    values, errors = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))
    half = (student_factor(n, confidence) if n else 0.0) * errors
    return BlockTraces(
        names=tuple(blocks),
        values=values,
        standard_errors=errors,
        intervals=torch.stack([values - half, values + half], dim=1),
        confidence=confidence,
        num_matvecs=spent,
        num_samples=n,
    )


def _written_out(operator: LinearOperator, spent: int, confidence: float, reached: bool | None) -> TraceEstimate:
    matrix = finite(operator.dense(_BLOCK)).double()
    value, norm = matrix.trace().item(), torch.linalg.matrix_norm(matrix).item()
    return TraceEstimate(
        value=value,
        standard_error=0.0,
        interval=(value, value),
        confidence=confidence,
        num_matvecs=spent + operator.size,
        method="exact",
        num_samples=0,
        exact=value,
        basis_size=operator.size,
        frobenius_norm=norm,
        frobenius_interval=(norm, norm),
        reached=reached,
    )


def _mean(samples: Tensor) -> tuple[float, float]:
    """Mean and its standard error; nothing sampled is zero without error."""
    if not len(samples):
        return 0.0, 0.0
    mean, error = mean_and_error(samples.cpu())
    return float(mean), float(error)


def _cut(number: int) -> list[range]:
    return [range(start, min(start + _BLOCK, number)) for start in range(0, number, _BLOCK)]


def _orthonormal(operator: LinearOperator, vectors: Tensor) -> Tensor:
    """Check that columns are orthonormal and make them so to the last bit."""
    if vectors.ndim != 2 or vectors.shape[0] != operator.size or not 1 <= vectors.shape[1] <= operator.size:
        raise ValueError(
            f"deflate must hold up to P columns, ({operator.size}, j), got {tuple(vectors.shape)}; "
            "pass Eigenpairs of the same operator, or their vectors."
        )
    V = vectors.to(operator.device, operator.dtype)
    gram = V.T @ V - torch.eye(V.shape[1], dtype=V.dtype, device=V.device)
    if not gram.abs().max() <= 1e-3:
        raise ValueError("deflate must have orthonormal columns; pass torch.linalg.qr(deflate).Q.")
    return V


def check_settings(
    num_matvecs: int | None, method: str, seed: int, confidence: float, rtol: float | None, max_basis: int = 1
) -> None:
    """Refuse what no operator can be asked.

    Raises:
        ValueError: If a setting is out of its range.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    if rtol is not None and not 0 < rtol < inf:
        raise ValueError(f"rtol must be positive and finite, got {rtol}.")
    if rtol is not None and method == "hutch++":
        raise ValueError("hutch++ needs num_matvecs= to begin with; for a wanted error use method='krylov'.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    if max_basis < 1:
        raise ValueError(f"max_basis must be at least 1, got {max_basis}.")
    if num_matvecs is not None and num_matvecs < 1:
        raise ValueError(f"num_matvecs must be at least 1, got {num_matvecs}.")
