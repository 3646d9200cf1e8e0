"""Answers with the dims of real ones and values that are known, for what reads answers."""

from __future__ import annotations

import numpy as np
import xarray as xr

COMMON = {
    "normalization": "running",
    "dtype": "float32",
    "num_examples": 1437,
    "num_parameters": 12_810,
    "command": "landscape probe slice results/demo/digits-cnn",
    "created_utc": "2026-01-05T10:00:00Z",
}


def bowl(alpha, beta=0.0, scale=3.0):
    """A loss that rises from 0.02 at the centre by orders of magnitude, not the same along both axes."""
    height = scale * alpha**2 + 0.5 * scale * beta**2 + 0.4 * alpha * beta
    return 0.02 + height * (1 + 0.3 * np.sin(4 * alpha + 1.0) * np.cos(3 * beta))


def slice_answer(seeds=1, resolution=41, radius=1.0, test=True):
    alpha = np.linspace(-radius, radius, resolution)
    scales = 3.0 * (1 + 0.35 * np.sin(np.arange(seeds) * 1.7))
    loss = np.stack([bowl(alpha, 0.0, scale) for scale in scales])
    dims = ("seed", "alpha")
    data = {"loss": (dims, loss, {"units": "nats"}), "accuracy": (dims, 1 / (1 + 0.4 * loss))}
    if test:
        data["test_loss"] = (dims, loss + 0.15 * (1 + alpha**2), {"units": "nats"})
        data["test_accuracy"] = (dims, 0.95 / (1 + 0.4 * loss))
    data["done"] = (dims, np.ones(loss.shape, dtype=bool))
    answer = xr.Dataset(data, coords={"seed": np.arange(seeds), "alpha": ("alpha", alpha)})
    answer["step_ratio"] = ("seed", np.full(seeds, 0.98))
    center = bowl(0.0)
    for name in ("loss", "accuracy", "test_loss", "test_accuracy"):
        if name in answer:
            value = {"loss": center, "accuracy": 1 / (1 + 0.4 * center), "test_loss": center + 0.15}.get(name)
            answer[f"center_{name}"] = 0.95 / (1 + 0.4 * center) if value is None else value
    if seeds == 1:
        answer = answer.isel(seed=0, drop=True)
    else:
        for name in ("loss", "accuracy", "test_loss", "test_accuracy"):
            if name in answer:
                for suffix, share in (("lower", 0.1), ("median", 0.5), ("upper", 0.9)):
                    answer[f"{name}_{suffix}"] = ("alpha", np.quantile(answer[name].values, share, axis=0))
    answer.attrs |= COMMON | {"probe": "Slice", "directions": "filter", "radius": radius}
    return answer


def surface_answer(seeds=1, resolution=(31, 21), radius=(1.0, 0.5), trajectory=False, directions="filter"):
    """The grid is not square: more points and a wider range along alpha."""
    alpha, beta = (np.linspace(-r, r, n) for r, n in zip(radius, resolution, strict=True))
    one = bowl(alpha[:, None], beta[None, :])
    loss = np.stack([one * (1 + 0.2 * seed) for seed in range(seeds)])
    dims = ("seed", "alpha", "beta")
    answer = xr.Dataset(
        {
            "loss": (dims, loss, {"units": "nats"}),
            "accuracy": (dims, 1 / (1 + 0.4 * loss)),
            "test_loss": (dims, loss + 0.15, {"units": "nats"}),
            "done": (dims, np.ones(loss.shape, dtype=bool)),
            "step_ratio_alpha": ("seed", np.full(seeds, 0.98)),
            "step_ratio_beta": ("seed", np.full(seeds, 0.97)),
            "cosine": ("seed", np.full(seeds, 1e-3)),
            "center_loss": bowl(0.0),
            "center_accuracy": 0.99,
            "center_test_loss": bowl(0.0) + 0.15,
        },
        coords={"seed": np.arange(seeds), "alpha": ("alpha", alpha), "beta": ("beta", beta)},
    )
    if seeds == 1:
        answer = answer.isel(seed=0, drop=True)
    if trajectory:
        t = np.linspace(1, 0, 12)
        answer["trajectory_alpha"] = ("snapshot", -0.8 * t)
        answer["trajectory_beta"] = ("snapshot", 0.4 * t**3 - 0.1 * np.sin(6 * t) * t)
        answer["trajectory_off_plane"] = ("snapshot", 0.2 + 0.6 * t)
        answer = answer.assign_coords(snapshot_step=("snapshot", 20 * np.arange(12)))
    if directions == "pca":
        answer["explained_share"] = ("component", np.array([0.81, 0.09]))
        answer["random_walk_share"] = ("component", np.array([0.61, 0.15]))
        for number, axis in enumerate(("alpha", "beta"), start=1):
            answer[axis].attrs["long_name"] = f"trajectory PCA component {number}"
    answer.attrs |= COMMON | {"probe": "Surface", "directions": directions, "radius": np.asarray(radius)}
    return answer


def spectrum_answer(k=5, negative=True):
    largest = 18.0 * 0.55 ** np.arange(k)
    smallest = (-0.9 if negative else 0.02) * 0.6 ** np.arange(k)
    values = np.stack([largest, smallest])
    answer = xr.Dataset(
        {
            "eigenvalue": (("end", "rank"), values),
            "residual": (("end", "rank"), 0.002 + 0.03 * np.abs(values)),
            "converged": (("end", "rank"), np.arange(2 * k).reshape(2, k) != 2 * k - 1),
            "gradient_norm": 0.013,
            "tolerance": 1e-3,
            "num_matvecs": 96,
            "loss": bowl(0.0),
        },
        coords={"end": ["largest", "smallest"], "rank": np.arange(k)},
    )
    reason = "the most negative eigenvalue is below zero by more than its residual and the tolerance"
    verdict = {"verdict": "saddle" if negative else "minimum", "verdict_reason": reason}
    answer.attrs |= COMMON | {"probe": "Spectrum"} | verdict
    return answer


def critical_answer(index=40.0, spread=15.0, loss=0.3, verdict="saddle", reason="curvature of both signs"):
    """A point of 12,810 parameters from which the loss falls both ways."""
    alpha = np.linspace(-1, 1, 21)
    answer = spectrum_answer(3).drop_vars("loss")
    answer["loss"] = ("alpha", loss * (1 - alpha**2 + 0.4 * alpha**4), {"units": "nats"})
    answer["quadratic_loss"] = ("alpha", loss * (1 - alpha**2), {"units": "nats"})
    answer = answer.assign_coords(alpha=("alpha", alpha))
    answer["center_loss"] = ((), loss, {"units": "nats"})
    answer["negative_count"], answer["negative_count_certified"] = index, min(10, int(index))
    for end, value in (("lower", max(index - spread, 0)), ("upper", index + spread)):
        answer[f"negative_count_{end}"] = value
        answer[f"index_fraction_{end}"] = value / 12_810
    answer["index_fraction"] = index / 12_810
    answer.attrs |= COMMON | {"probe": "critical-point", "verdict": verdict, "verdict_reason": reason}
    return answer


def spectrum_by_step(steps=8, k=2):
    answers = [spectrum_answer(k) for _ in range(steps)]
    growing = [a.assign(eigenvalue=a["eigenvalue"] * (1 + 0.4 * i)) for i, a in enumerate(answers)]
    answer = xr.concat(growing, dim=xr.Variable("step", 50 * np.arange(steps)), data_vars="all")
    answer.attrs |= COMMON | {"probe": "Spectrum"}
    return answer


def stability_by_step(steps=30, late=True):
    """An adaptive optimizer: no metric before its first step, then a rise to the edge of stability."""
    step = 50 * np.arange(steps)
    ratio = np.minimum(1.0, 0.2 + step / 400) + 0.03 * np.sin(step)
    ratio[0] = np.nan if late else ratio[0]
    answer = xr.Dataset(
        {
            "loss": ("step", 0.5 * np.exp(-step / 300) + 1e-3),
            "ratio": ("step", ratio),
            "ratio_residual": ("step", np.full(steps, 1e-3)),
            "converged": ("step", step != 100),
        },
        coords={"step": step},
    )
    answer.attrs |= COMMON | {"probe": "stability", "algorithm": "Adam"}
    return answer


def overlap_answer(k=10):
    rank = np.arange(1, k + 1)
    full = 0.95 * (1 - 0.6**rank)
    answer = xr.Dataset(
        {
            "overlap": full[-1],
            "overlap_error": 0.02,
            "minibatch_overlap": 0.7 * full[-1],
            "minibatch_overlap_standard_error": 0.02,
            "chance": k / 12_810,
            "control_overlap": 1.1 * k / 12_810,
            "minibatch_control_overlap": 0.9 * k / 12_810,
            "minibatch_control_overlap_standard_error": 1e-5,
            "overlap_by_rank": ("rank", full),
            "minibatch_overlap_by_rank": ("rank", 0.7 * full),
            "minibatch_overlap_by_rank_standard_error": ("rank", np.full(k, 0.02)),
            "eigenvalue": ("rank", 18.0 / rank),
            "residual": ("rank", np.full(k, 1e-3)),
            "converged": ("rank", rank != k),
        },
        coords={"rank": rank},
    )
    answer.attrs |= COMMON | {"probe": "subspace-overlap"}
    return answer


def overlap_by_step(steps=12, k=10):
    answer = xr.concat([overlap_answer(k)] * steps, dim=xr.Variable("step", 50 * np.arange(steps)), data_vars="all")
    answer["overlap_with_previous"] = ("step", np.where(np.arange(steps) == 0, np.nan, 0.8))
    answer.attrs |= COMMON | {"probe": "subspace-overlap"}
    return answer


def training_answer(epochs=6, steps_per_epoch=20, layers=5, name="features.#.conv.weight"):
    steps = epochs * steps_per_epoch
    rng = np.random.default_rng(0)
    step = np.arange(1, steps + 1)
    loss = 2.3 * np.exp(-4 * step / steps) * np.exp(0.25 * rng.standard_normal(steps)) + 0.01
    epoch = np.arange(epochs)
    depth = np.arange(layers)
    fall = np.exp(-2 * step / steps)[:, None] * np.exp(-0.3 * depth)[None, :]
    wobble = np.exp(0.3 * rng.standard_normal((steps, layers)))
    means = loss.reshape(epochs, steps_per_epoch).mean(axis=1)
    answer = xr.Dataset(
        {
            "loss": ("step", loss, {"units": "nats"}),
            "learning_rate": ("step", np.linspace(0.1, 0.001, steps)),
            "gradient_norm": ("step", fall.sum(axis=1)),
            "epoch_of_step": ("step", np.repeat(epoch, steps_per_epoch)),
            "layer_gradient_norm": (("step", "layer"), fall * wobble),
            "update_ratio": (("step", "layer"), 3e-3 * fall * wobble),
            "parameter_norm": (("step", "layer"), np.ones((steps, layers))),
            "train_loss": ("epoch", means, {"units": "nats"}),
            "train_accuracy": ("epoch", 1 - 0.3 * np.exp(-epoch / 2)),
            "val_loss": ("epoch", means + 0.1, {"units": "nats"}),
            "val_accuracy": ("epoch", 0.95 - 0.3 * np.exp(-epoch / 2)),
        },
        coords={"step": step, "epoch": epoch, "layer": [name.replace("#", str(i)) for i in depth]},
    )
    answer.attrs |= COMMON | {"probe": "TrainingDynamics"}
    return answer


def density_answer(negative=True, k=3, probes=4):
    """Three bumps over a linear axis and one a decade; the outliers stand apart."""
    rng = np.random.default_rng(0)
    curvature = np.linspace(-3.0, 20.0, 200)
    density = np.exp(-0.5 * (curvature / 0.2) ** 2) + 1e-4 * np.exp(-0.5 * ((curvature - 15.0) / 0.2) ** 2)
    magnitude = np.logspace(-4, 1.5, 150)
    bump = 0.3 * np.exp(-0.5 * (np.log10(magnitude) + 1) ** 2)
    answer = xr.Dataset(
        {
            "density": ("curvature", density),
            "density_standard_error": ("curvature", 0.1 * density),
            "log_density_positive": ("magnitude", bump),
            "log_density_positive_standard_error": ("magnitude", 0.1 * bump),
            "log_density_negative": ("magnitude", bump / 4 if negative else 0 * bump),
            "log_density_negative_standard_error": ("magnitude", bump / 40 if negative else 0 * bump),
            "near_zero": 0.4,
            "near_zero_low": -1e-4,
            "near_zero_high": 2e-4,
            "ritz_value": (("probe", "node"), rng.standard_normal((probes, 30))),
            "sigma": 0.07,
        },
        coords={"curvature": curvature, "magnitude": ("magnitude", magnitude, {"decades": 0.1})},
    )
    if k:
        values = np.stack([18.0 * 0.8 ** np.arange(k), (-2.0 if negative else 0.1) * 0.7 ** np.arange(k)])
        answer["eigenvalue"] = (("end", "rank"), values)
        answer["residual"] = (("end", "rank"), 1e-3 * np.abs(values))
        answer["converged"] = (("end", "rank"), np.arange(2 * k).reshape(2, k) != 2 * k - 1)
        answer = answer.assign_coords(end=["largest", "smallest"], rank=np.arange(k))
    answer.attrs |= COMMON | {"probe": "spectral-density", "num_eigenvalues": COMMON["num_parameters"]}
    return answer


def layers_answer(layers=6, eigenvalues=True, negative=True, name="features.#.conv"):
    depth = np.arange(layers)
    trace = 100.0 * 0.8**depth
    if negative and layers > 2:
        trace[2] = -5.0
    answer = xr.Dataset(
        {
            "num_parameters": ("layer", 100 * (depth + 1)),
            "trace": ("layer", trace),
            "trace_standard_error": ("layer", 0.05 * np.abs(trace)),
            "trace_low": ("layer", trace - 0.1 * np.abs(trace)),
            "trace_high": ("layer", trace + 0.1 * np.abs(trace)),
            "gradient_norm": ("layer", 0.1 + 0 * trace),
            "loss": bowl(0.0),
        },
        coords={"layer": [name.replace("#", str(i)) for i in depth]},
    )
    if eigenvalues:
        ends = {"largest": 10.0 * 0.9**depth, "smallest": (-0.5 if negative else 0.01) * 0.9**depth}
        for end, values in ends.items():
            answer[f"{end}_eigenvalue"] = ("layer", values)
            answer[f"{end}_residual"] = ("layer", 0.01 * np.abs(values))
            answer[f"{end}_converged"] = ("layer", depth != 1)
        answer["frobenius_norm"] = ("layer", 20.0 * 0.9**depth)
    answer.attrs |= COMMON | {"probe": "layers"}
    return answer


def curvature_answer(resolution=(9, 7), radius=(1.0, 0.5)):
    """A surface that curves down on one side only."""
    answer = surface_answer(resolution=resolution, radius=radius)[
        ["loss", "done", "step_ratio_alpha", "step_ratio_beta"]
    ]
    alpha, beta = np.meshgrid(answer["alpha"], answer["beta"], indexing="ij")
    dims = ("alpha", "beta")
    answer["largest_eigenvalue"] = (dims, 20.0 + 10 * alpha**2 + beta, {"units": "nats"})
    answer["smallest_eigenvalue"] = (dims, -4.0 * alpha - 0.5 + beta**2)
    answer["eigenvalue_ratio"] = abs(answer["smallest_eigenvalue"] / answer["largest_eigenvalue"])
    answer["largest_residual"] = (dims, np.full(alpha.shape, 0.5))
    answer["smallest_residual"] = (dims, np.full(alpha.shape, 0.02))
    answer.attrs |= COMMON | {"probe": "curvature-surface", "directions": "filter"}
    return answer


def volume_answer(resolution=(7, 5, 3), radius=(1.0, 0.5, 0.25)):
    """No two axes have the same length or the same range."""
    axes = [np.linspace(-r, r, n) for r, n in zip(radius, resolution, strict=True)]
    alpha, beta, gamma = np.meshgrid(*axes, indexing="ij")
    dims = ("alpha", "beta", "gamma")
    loss = bowl(alpha, beta) + 2 * gamma**2 + 0.3 * gamma * (alpha + 2)
    answer = xr.Dataset(
        {"loss": (dims, loss + 1, {"units": "nats"}), "accuracy": (dims, 1 / (1 + 0.4 * loss))},
        dict(zip(dims, axes, strict=True)),
    )
    for axis in dims:
        answer[f"step_ratio_{axis}"] = 0.98
    answer["center_loss"] = bowl(0.0) + 1
    answer.attrs |= COMMON | {"probe": "surface", "directions": "filter"}
    return answer
