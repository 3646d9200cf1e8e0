"""Directions through a point of parameter space: what they are, how they are scaled, what lies along them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from landscape.eigen import eigenpairs, fix_signs
from landscape.objective import Objective
from landscape.operators import Hessian, Resumable
from landscape.parameters import ParameterLayout

RANDOM_KINDS = ("filter", "layer", "weight", "gaussian")
HESSIAN_KINDS = ("hessian", "hessian-ends")
KINDS = RANDOM_KINDS + HESSIAN_KINDS
ONE_DIMENSIONAL = ("zero", "copy")


@dataclass(frozen=True, eq=False)
class Directions:
    """One or two directions, and what is known about them.

    Attributes:
        kind: How they were made, for example ``filter`` or ``pca``.
        vectors: (D, P) in the units of theta.
        labels: The name of each axis.
        path: (T, P) points to mark on the plane, such as a trajectory; None where there are none.
        path_steps: The training step of each of them.
        explained_share: (D,) share of the variance of the path along each direction, for ``pca``.
        random_walk_share: (D,) the same for a pure random walk of as many points.
        mean_centred_share: (D,) share of the variance of the path around its mean that its own first D principal
            components explain, for ``pca``.
        mean_centred_random_walk_share: (D,) the same for a pure random walk of as many points.
    """

    kind: str
    vectors: Tensor
    labels: tuple[str, ...]
    path: Tensor | None = None
    path_steps: tuple[int, ...] = ()
    explained_share: tuple[float, ...] = ()
    random_walk_share: tuple[float, ...] = ()
    mean_centred_share: tuple[float, ...] = ()
    mean_centred_random_walk_share: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest()[:12]}"

    def digest(self) -> str:
        """SHA-256 of the vectors and the path."""
        sha = hashlib.sha256(self.kind.encode())
        for tensor in (self.vectors, self.path):
            if tensor is not None:
                sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def first(self, count: int) -> Directions:
        """Keep the first directions.

        Raises:
            ValueError: If there are fewer.
        """
        if len(self.vectors) < count:
            what = {"between": "a line toward another point", "through": "a plane through three points"}
            raise ValueError(
                f"{what.get(self.kind, self.kind)} gives {len(self.vectors)} direction(s), {count} are needed."
            )
        return replace(
            self,
            vectors=self.vectors[:count],
            labels=self.labels[:count],
            explained_share=self.explained_share[:count],
            random_walk_share=self.random_walk_share[:count],
            mean_centred_share=self.mean_centred_share[:count],
            mean_centred_random_walk_share=self.mean_centred_random_walk_share[:count],
        )


def directions_for(
    kind: str | Directions, objective: Objective, count: int, seed: int = 0, one_dimensional: str = "zero"
) -> Directions:
    """Make the directions that a name stands for, at the point of an objective.

    Args:
        kind: ``filter``, ``layer``, ``weight`` (random, rescaled to the model's own filters, layers or weights),
            ``gaussian`` (a random unit vector), ``hessian`` (eigenvectors of the largest eigenvalues),
            ``hessian-ends`` (of the largest and of the smallest), or directions already made.
        objective: Where.
        count: One for a line, two for a plane.
        seed: Of the random draw.
        one_dimensional: What biases and normalization scales do: ``zero`` or ``copy`` (see `normalize`).

    Raises:
        ValueError: If the name is unknown or the directions do not fit the objective.
    """
    if isinstance(kind, Directions):
        if kind.vectors.shape[1] != objective.size:
            raise ValueError(
                f"the directions have {kind.vectors.shape[1]} entries, the objective has {objective.size} "
                "parameters; make them for the same model and the same parameters= pattern."
            )
        return replace(kind.first(count), vectors=kind.vectors[:count].to(objective.theta))
    if kind in RANDOM_KINDS:
        vectors = random_directions(objective.theta, objective.layout, kind, count, seed, one_dimensional)
        return Directions(kind, vectors, tuple(f"random {kind} direction {n + 1}" for n in range(count)))
    if kind in HESSIAN_KINDS:
        return _hessian_directions(objective, kind, count, seed)
    raise ValueError(f"directions must be one of {', '.join(KINDS)}, or a Directions object; got {kind!r}.")


def random_directions(
    theta: Tensor,
    layout: ParameterLayout,
    kind: str = "filter",
    count: int = 1,
    seed: int = 0,
    one_dimensional: str = "zero",
) -> Tensor:
    """Draw Gaussian directions and rescale them to the model; a pair is orthogonal after the rescaling.

    The second direction is made orthogonal to the first inside every group that is rescaled (filter, layer, or
    the whole), so that rescaling cannot undo it. A filter of a single entry has no orthogonal direction: it is
    zero in the second. Under ``one_dimensional="copy"`` both directions share the copied entries.

    Returns:
        (count, P) directions in the units of `theta`.

    Raises:
        ValueError: If a direction is zero everywhere, because all that would be rescaled is zero in the model, or
            because no filter has room for a second direction.
    """
    # Sums by group are not deterministic on a GPU, and a resumed surface needs the same directions: draw on the CPU.
    point, groups = theta.detach().cpu().double(), _groups(layout, kind)
    drawn = [gaussian(layout.size, seed, axis) for axis in range(count)]
    if kind == "weight":
        drawn = [normalize(d, point, layout, kind, one_dimensional) for d in drawn]
    for axis in range(1, count):
        for earlier in range(axis):
            drawn[axis] = _orthogonalized(drawn[axis], drawn[earlier], groups)
    if kind in ("filter", "layer"):
        drawn = [normalize(d, point, layout, kind, one_dimensional) for d in drawn]
    for axis, direction in enumerate(drawn):
        if not direction.any():
            raise ValueError(
                f"{kind} direction {axis + 1} is zero: its filters or layers are zero in the model, have a single "
                "entry, or there are none; use another kind of direction, such as gaussian."
            )
    if kind == "gaussian":
        drawn = [d / d.norm() for d in drawn]
    return torch.stack(drawn).to(theta)


def normalize(
    direction: Tensor, theta: Tensor, layout: ParameterLayout, kind: str = "filter", one_dimensional: str = "zero"
) -> Tensor:
    """Rescale each filter or layer of a direction to the norm of the model's own.

    A filter is one slice of a weight along its first axis (second for transposed convolutions), the fan-in of
    one unit. With ``weight`` each entry is multiplied by the model's own.

    Args:
        direction: (P,) any direction, usually Gaussian.
        theta: (P,) the point where the direction will be used.
        layout: Names and shapes, which say which entries form a filter.
        kind: ``filter``, ``layer`` or ``weight``.
        one_dimensional: ``zero`` sets biases and normalization scales to zero, ``copy`` to theta itself.

    Returns:
        (P,) the rescaled direction, in the units of `theta`.

    Raises:
        ValueError: If a word is unknown, or a filter of `direction` is zero where the model's is not.

    References:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 4.
    """
    if one_dimensional not in ONE_DIMENSIONAL:
        raise ValueError(f"one_dimensional must be zero or copy, got {one_dimensional!r}.")
    if kind not in ("filter", "layer", "weight"):
        raise ValueError(f"a direction is normalized by filter, layer or weight, not by {kind!r}.")
    groups = _groups(layout, kind).to(theta.device)
    scaled = direction * theta if kind == "weight" else direction * _scales(direction, theta, groups, layout)
    return torch.where(groups >= 0, scaled, theta if one_dimensional == "copy" else torch.zeros_like(theta))


def between(theta: Tensor, other: Tensor) -> Directions:
    """Direction from one point to another, so that alpha = 1 is the other point.

    Raises:
        ValueError: If the points have different sizes or coincide.
    """
    return Directions("between", _difference(theta, other).unsqueeze(0), ("toward the other point",))


def through(theta: Tensor, second: Tensor, third: Tensor) -> Directions:
    """Orthogonal axes of the plane through three points; (1, 0) is the second, the first is the origin.

    Raises:
        ValueError: If the points lie on one line.

    References:
        Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018, appendix.
    """
    u, w = _difference(theta, second), _difference(theta, third)
    v = w - (w @ u) / (u @ u) * u
    if v.norm() <= 1e-6 * w.norm():
        raise ValueError("the three points lie on one line and span no plane; use Slice between two of them.")
    vectors = torch.stack([u, v * (u.norm() / v.norm())])
    labels = ("toward the second point", "toward the third point, orthogonal")
    return Directions("through", vectors, labels, path=torch.stack([theta, second, third]), path_steps=(0, 1, 2))


def pca(path: Tensor, steps: Sequence[int], theta: Tensor, count: int = 2) -> Directions:
    """Principal directions of a trajectory, centred at its end `theta`.

    Each is scaled to 1.1 times the largest coordinate of the trajectory along it, so that a radius of 1 shows all of
    it.

    The explained shares mean little by themselves: a pure random walk in many dimensions explains about 90% in two
    components under this centring, so its shares come with them. Around the mean of the path instead of its end, as
    principal components are usually taken, a random walk explains 76%; both shares of this centring are there too.

    Args:
        path: (T, P) points of the trajectory.
        steps: Their training steps.
        theta: (P,) the end, where the plane is centred.
        count: How many directions.

    Raises:
        ValueError: If fewer than `count` points differ from the end, or they span fewer dimensions.

    References:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 7; Antognini and
        Sohl-Dickstein, "PCA of high dimensional random walks", NeurIPS 2018.
    """
    rows = (path - theta).double()
    moved = int((rows.norm(dim=1) > 0).sum())
    if moved < count:
        raise ValueError(f"{count} principal directions need {count} snapshots that differ from the end, got {moved}.")
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    if singular[count - 1] <= 1e-7 * singular[0]:  # float32 snapshots carry no more
        raise ValueError(f"the trajectory spans fewer than {count} dimensions; keep more snapshots, or draw a line.")
    shares = (singular**2 / (singular**2).sum())[:count]
    axes = fix_signs(right[:count].T).T
    reach = 1.1 * (rows @ axes.T).abs().amax(dim=0)
    return Directions(
        "pca",
        (reach.unsqueeze(1) * axes).to(theta.dtype),
        tuple(f"principal component {n + 1}" for n in range(count)),
        path=path,
        path_steps=tuple(int(step) for step in steps),
        explained_share=tuple(shares.tolist()),
        random_walk_share=tuple(random_walk_shares(moved, count)),
        mean_centred_share=tuple(_mean_centred_shares(rows, count)),
        mean_centred_random_walk_share=tuple(random_walk_shares(len(path), count, "mean")),
    )


def random_walk_shares(length: int, count: int = 2, centring: str = "end") -> list[float]:
    """Shares of variance that the principal components of a random walk in many dimensions explain.

    Centred at the walk's end, the Gram matrix of the n points before it is min(i, j), with the eigenvalues
    1 / (4 sin^2((2 k - 1) pi / (4 n + 2))); the shares go to 8 / (pi^2 (2 k - 1)^2), 0.90 in two. Centred at the mean
    of n points it is the inverse of the Laplacian of a path, 1 / (4 sin^2(k pi / (2 n))) for k < n, and the shares go
    to 6 / (pi^2 k^2), 0.76 in two.

    Args:
        length: Number of points n, without the end where the walk is centred there.
        count: How many components; the share of one that does not exist is 0.
        centring: ``end`` as Li et al. do, or ``mean``.

    Raises:
        ValueError: If the centring is neither.

    References:
        Antognini and Sohl-Dickstein, "PCA of high dimensional random walks", NeurIPS 2018, section 2.
    """
    if centring not in ("end", "mean"):
        raise ValueError(f"centring must be end or mean, got {centring!r}.")
    k = np.arange(1, length + 1 if centring == "end" else length)
    angles = (2 * k - 1) * np.pi / (4 * length + 2) if centring == "end" else k * np.pi / (2 * length)
    eigenvalues = 1 / (4 * np.sin(angles) ** 2)
    shares = eigenvalues / (eigenvalues.sum() or 1.0)
    return [float(share) for share in shares[:count]] + [0.0] * (count - len(shares))


def _mean_centred_shares(rows: Tensor, count: int) -> list[float]:
    """Shares of the variance of points (T, P) around their mean that their principal components explain."""
    centred = rows - rows.mean(dim=0)
    variances = torch.linalg.eigvalsh(centred @ centred.T).flip(0).clamp_min(0.0)
    shares = variances / variances.sum().clamp_min(torch.finfo(variances.dtype).tiny)
    return shares[:count].tolist() + [0.0] * (count - len(shares))


def coordinates(points: Tensor, theta: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Project points on the line or plane through theta, for directions of any length and angle.

    Args:
        points: (T, P).
        theta: (P,) the origin.
        vectors: (D, P) the directions.

    Returns:
        (T, D) coordinates by least squares, and (T,) the share of each point's distance from theta that lies off
        the plane (0 on it, 1 orthogonal to it).
    """
    offsets, axes = (points - theta).double(), vectors.double()
    inside = torch.linalg.lstsq(axes.T, offsets.T).solution.T
    distance = offsets.norm(dim=1)
    off = (offsets - inside @ axes).norm(dim=1)
    return inside, torch.where(distance > 0, off / distance.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def cosine(first: Tensor, second: Tensor) -> float:
    """Cosine of the angle between two directions (P,)."""
    return torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=0).item()


def step_ratio(direction: Tensor, theta: Tensor, layout: ParameterLayout) -> float:
    """Norm of a direction relative to the norm of the model's filters (all parameters where there are none)."""
    scale = theta[layout.layer_index().to(theta.device) >= 0].double().norm().item() or theta.double().norm().item()
    return direction.double().norm().item() / scale if scale else float("nan")


def _hessian_directions(objective: Objective, kind: str, count: int, seed: int) -> Directions:
    which = "both" if kind == "hessian-ends" and count == 2 else "largest"
    pairs = eigenpairs(Resumable(Hessian(objective)), k=count, which=which, seed=seed)
    labels = tuple(
        f"eigenvector of {value:.4g} ± {residual:.1g}{'' if converged else ', not converged'}"
        for value, residual, converged in zip(pairs.values, pairs.residuals, pairs.converged, strict=True)
    )
    return Directions(kind, pairs.vectors.T.to(objective.theta).contiguous(), labels)


def gaussian(size: int, seed: int, axis: int) -> Tensor:
    """Draw a standard normal vector (size,) in float64 on the CPU; a pure function of seed and axis."""
    state = int(np.random.SeedSequence([seed, axis]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(state >> 1)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def _groups(layout: ParameterLayout, kind: str) -> Tensor:
    """Number the entries (P,) by the group that is rescaled as one; -1 for one-dimensional parameters."""
    if kind == "gaussian":
        return torch.zeros(layout.size, dtype=torch.long)
    return layout.filter_index() if kind == "filter" else layout.layer_index()


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    """Sum values (P,) by group and hand every entry the sum of its group, (P,); zero outside the groups."""
    inside = groups >= 0
    totals = torch.zeros(int(groups.max()) + 2, dtype=values.dtype, device=values.device)
    totals.index_add_(0, groups[inside], values[inside])
    return totals[groups]


def _orthogonalized(direction: Tensor, earlier: Tensor, groups: Tensor) -> Tensor:
    """Remove from each group of `direction` its projection on the same group of `earlier`."""
    overlap, length = _sums(direction * earlier, groups), _sums(earlier.square(), groups)
    rest = direction - torch.where(length > 0, overlap / length, 0.0) * earlier
    # Where nothing but rounding is left (a filter of one entry) the direction is zero.
    left = _sums(rest.square(), groups) > 1e-20 * _sums(direction.square(), groups)
    return torch.where(left | (groups < 0), rest, torch.zeros_like(rest))


def _scales(direction: Tensor, theta: Tensor, groups: Tensor, layout: ParameterLayout) -> Tensor:
    """Ratio of the norms of the model's and the direction's groups, for every entry (P,)."""
    norms, wanted = _sums(direction.square(), groups).sqrt(), _sums(theta.square(), groups).sqrt()
    size = _sums(torch.ones_like(direction), groups)
    unscalable = (norms == 0) & (wanted > 0) & (size > 1)
    if unscalable.any():
        name = layout.name_at(int(unscalable.nonzero()[0]))
        raise ValueError(
            f"the direction has a zero filter in {name!r}, which no scale can normalize; "
            "draw another direction or leave this parameter out."
        )
    return torch.where(norms > 0, wanted / norms, 0.0)


def _difference(theta: Tensor, other: Tensor) -> Tensor:
    if theta.shape != other.shape:
        raise ValueError(f"the points have {len(theta)} and {len(other)} parameters; compare equal architectures.")
    if torch.equal(theta, other):
        raise ValueError("the two points are the same, so there is no direction between them.")
    return other - theta
