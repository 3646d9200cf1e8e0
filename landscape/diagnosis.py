"""What a recorded training says about itself, in words: each symptom with its numbers, its threshold and its figure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from landscape.doctor import NOTE, OK, PROBLEM
from landscape.monitors import sign_coherence_by_chance
from landscape.store import Store
from landscape.units import distinct_units, unit_rows

Floats = NDArray[np.float64]

# Where a note and where a problem begins. Each is shown on a training that has the fault and on one that has not.
INITIAL_LOSS = (0.3, 1.0)  # distance from log C, as a share of log C
LEARNED = 0.9  # of the first loss, or of log C if that is lower: a later loss above it is no learning
DEPTH_FACTOR = (1e2, 1e4)  # by which the gradient changes from the last layer to the first
BURST = 100.0  # largest gradient norm over its median
DEAD = (0.1, 0.4)  # share of a layer's units
DORMANT = (0.25, 0.6)
SATURATED = (0.3, 0.6)  # share of a layer's outputs
UPDATE = (1e-5, 1e-4, 1e-2, 5e-2)  # update over weight: problem below, note below, note above, problem above
GAP = (0.1, 0.25)  # training accuracy less validation accuracy
OVERFITTED = 1.1  # last validation loss over the lowest one
EDGE = (1.1, 3.0)  # sharpness over threshold, half of the measured steps above it
TURN = (-0.3, -0.7)  # median cosine between updates in the last half
COHERENT = 0.6  # sign coherence of a layer, where chance gives much less
LARGE_BATCH, NOISY = 10.0, 0.03  # batch over noise scale
_STILL = 0.95  # share of updates that are exactly zero
_FEW = 20  # steps that say nothing yet of how a training went


@dataclass(frozen=True)
class Symptom:
    """One thing that was looked at.

    Attributes:
        check: What was looked at.
        status: ``ok``, ``note`` or ``problem``.
        detail: What was seen, against which threshold, and what usually helps.
        figure: The figure that shows it, as `landscape.figures.draw` names it, after the answer's name; "" for none.
    """

    check: str
    status: str
    detail: str
    figure: str = ""


@dataclass(frozen=True)
class Record:
    """What is known of a training.

    Attributes:
        training: The answer `training` of the callback TrainingDynamics.
        trajectory: The answer `trajectory`; None if there is none.
        by_step: Answers of probes that were asked while it trained, by name, such as "stability-by-step-1a2b3c".
        num_classes: Classes to tell apart; None if not known.
        batch_size: Examples a step; None if not known.
    """

    training: xr.Dataset
    trajectory: xr.Dataset | None = None
    by_step: dict[str, xr.Dataset] | None = None
    num_classes: int | None = None
    batch_size: int | None = None

    def asked(self, probe: str) -> tuple[str, xr.Dataset] | None:
        """Find the answers of a probe by step: name and data set."""
        return next(((n, a) for n, a in (self.by_step or {}).items() if n.startswith(f"{probe}-by-step")), None)


def recorded(store: Store, num_classes: int | None = None, batch_size: int | None = None) -> Record:
    """Read what a run's folder holds of its training.

    Raises:
        MissingError: If there is no answer `training` in it.
    """
    return Record(
        store.read("training"),
        store.read("trajectory") if store.has("trajectory") else None,
        {name: store.read(name) for name in store.names("*-by-step-*")},
        num_classes,
        batch_size,
    )


def diagnose(record: Record) -> list[Symptom]:
    """Look at everything that was recorded; what was not recorded is left out.

    Raises:
        ValueError: If no step was recorded.
    """
    if not record.training.sizes.get("step"):
        raise ValueError("this training has no recorded step; train it for at least one, with TrainingDynamics.")
    return [symptom for check in CHECKS for symptom in check(record)]


def _initial_loss(record: Record) -> Iterator[Symptom]:
    training, classes = record.training, record.num_classes
    if classes is None or classes < 2 or training["step"].values[0] != 1:
        return
    first, expected = float(training["loss"].values[0]), math.log(classes)
    if not math.isfinite(first):
        yield Symptom("initial loss", PROBLEM, f"{first:g} at step 1", "training-learning-curves")
        return
    away = abs(first - expected) / expected
    detail = f"{first:.3g} at step 1, log {classes} = {expected:.3g}"
    advice = "; the first outputs are confident and wrong: smaller weights in the last layer, or centred inputs"
    yield _graded("initial loss", away, INITIAL_LOSS, detail, advice, "training-learning-curves")


def _loss(record: Record) -> Iterator[Symptom]:
    loss, steps = _of(record.training, "loss"), record.training["step"].values
    figure = "training-learning-curves"
    # a loss that is not a number while its gradient is one was not returned: a batch was skipped, or optimized by hand
    known = ~(np.isnan(loss) & np.isfinite(_of(record.training, "gradient_norm")))
    if not known.any():
        yield Symptom("loss", NOTE, "training_step returned none, so that no loss is known by step")
        return
    loss, steps = loss[known], steps[known]
    broken = ~np.isfinite(loss)
    if broken.any():
        at = int(steps[broken][0])
        yield Symptom("loss", PROBLEM, f"not finite from step {at}; a smaller learning rate, or clipping", figure)
        return
    first, last = loss[0], float(np.median(loss[-max(1, len(loss) // 10) :]))
    words = f"{first:.3g} at first, {last:.3g} over the last tenth of {len(loss)} steps"
    chance = math.log(record.num_classes) if record.num_classes else math.inf
    if len(loss) >= _FEW and last > LEARNED * min(first, chance):
        advice = f"; not below {LEARNED:.0%} of {'the first' if first <= chance else 'chance'}: another learning rate, "
        yield Symptom("loss", PROBLEM, f"{words}{advice}initialization or data", figure)
    else:
        yield Symptom("loss", OK, words, figure)


def _gradient_over_depth(record: Record) -> Iterator[Symptom]:
    if not record.training.sizes.get("flow_step"):
        return
    depth = record.training["depth"].values
    order = [index for index in np.argsort(depth, kind="stable") if depth[index] >= 0]
    if len(order) < 2:
        return
    norms = _of(record.training, "backpropagated_norm")[:, order]
    logs = np.full(norms.shape, np.nan)
    np.log10(norms, out=logs, where=np.isfinite(norms) & (norms > 0))
    known = np.isfinite(logs).any(0)
    if not known[-1] or known.sum() < 2:
        return
    middle = np.full(len(order), np.nan)
    middle[known] = np.nanmedian(logs[:, known], axis=0)
    names = [str(record.training["module"].values[index]) for index in order]
    relative = middle - middle[-1]
    farthest = int(np.flatnonzero(known)[0])
    change = float(relative[farthest])
    status = _grade(10 ** abs(change), DEPTH_FACTOR)
    words = (
        f"from {names[-1]!r} back to {names[farthest]!r} its norm is multiplied by {10**change:.2g} (median of steps)"
    )
    if status != OK:
        limit = math.log10(DEPTH_FACTOR[0])
        beyond = [i for i in range(len(order)) if known[i] and abs(relative[i]) > limit]
        kind = "vanishing" if change < 0 else "exploding"
        words = f"{kind} from {names[beyond[-1]]!r} down: {words}"
        words += "; initialization for the activation (he, xavier), normalization or skip connections"
    yield Symptom("gradient over depth", status, words, "training-signal-propagation")


def _bursts(record: Record) -> Iterator[Symptom]:
    norms = _of(record.training, "gradient_norm")
    usable = norms[np.isfinite(norms)]
    if len(usable) < _FEW or not np.median(usable) > 0:
        return
    ratio = usable.max() / np.median(usable)
    words = f"the largest norm is {ratio:.3g} times the median"
    if ratio > BURST:
        at = int(record.training["step"].values[np.nanargmax(np.where(np.isfinite(norms), norms, -1))])
        words += f", at step {at}; clip the gradient (clip_norm), or warm up"
    yield Symptom("gradient bursts", NOTE if ratio > BURST else OK, words, "training-gradient-flow")


def _shares(record: Record) -> Iterator[Symptom]:
    kinds = (
        ("dead_share", "dead units", DEAD, "smaller learning rate, biases not below zero, or a leaky activation"),
        ("dormant_share", "dormant units", DORMANT, "smaller learning rate, or fewer units"),
        ("saturated_share", "saturated outputs", SATURATED, "smaller weights, normalization, or relu"),
    )
    for name, check, limits, advice in kinds:
        if not record.training.sizes.get("flow_step") or not record.training.sizes.get("activation"):
            return
        shares = _of(record.training, name)
        rows = np.flatnonzero(np.isfinite(shares).any(1))  # after too few examples there is none
        if not len(rows):
            continue
        last = shares[rows[-1]]
        worst = int(np.nanargmax(last))
        place = str(record.training["activation"].values[worst])
        step = int(record.training["flow_step"].values[rows[-1]])
        words = f"{last[worst]:.0%} after {place!r}, {np.nanmean(last):.0%} over all layers, at step {step}"
        yield _graded(check, float(last[worst]), limits, words, f"; {advice}", "training-lost-units")


def _updates(record: Record) -> Iterator[Symptom]:
    ratios = _of(record.training, "update_ratio")
    if (ratios == 0).mean() > _STILL:
        yield Symptom("size of updates", PROBLEM, "most weights do not move at all: no learning rate, or no gradient")
        return
    usable = np.where(np.isfinite(ratios) & (ratios > 0), ratios, np.nan)
    known = np.isfinite(usable).any(0)
    if not known.any():
        return
    by_layer = np.nanmedian(usable[:, known], axis=0)
    middle = float(np.median(by_layer))
    low, small, large, high = UPDATE
    status = PROBLEM if not low <= middle <= high else OK if small <= middle <= large else NOTE
    words = f"median |update| / |weight| is {middle:.2g}, by layer {by_layer.min():.2g} to {by_layer.max():.2g}"
    if status != OK:
        words += f"; {'smaller' if middle > large else 'larger'} learning rate (1e-3 is usual)"
    yield Symptom("size of updates", status, words, "training-update-ratios")


def _turns(record: Record) -> Iterator[Symptom]:
    if "turn_cosine" not in record.training:
        return
    cosines = _of(record.training, "turn_cosine")
    usable = cosines[len(cosines) // 2 :]
    usable = usable[np.isfinite(usable)]
    if len(usable) < 10:
        return
    middle = float(np.median(usable))
    words = f"median cosine between successive updates in the second half is {middle:.2f}"
    advice = "; the updates undo one another: smaller learning rate, or a schedule that falls"
    yield _graded("direction of updates", -middle, (-TURN[0], -TURN[1]), words, advice, "training-path")


def _signs(record: Record) -> Iterator[Symptom]:
    if "sign_coherence" not in record.training or record.trajectory is None:
        return
    units = {name: math.prod(shape[1:]) for name, shape in _shapes(record.trajectory).items()}
    coherence = np.nanmedian(np.where(np.isfinite(c := _of(record.training, "sign_coherence")), c, 0), axis=0)
    named = {str(name): value for name, value in zip(record.training["layer"].values, coherence, strict=True)}
    chance = {name: sign_coherence_by_chance(units[name]) for name in named if units.get(name, 0) >= 8}
    if not chance:
        return
    worst = max(chance, key=lambda name: named[name])
    words = f"of the gradient by {worst!r} agree to {named[worst]:.2f} a unit, by chance {chance[worst]:.2f}"
    is_high = named[worst] > COHERENT
    advice = "; inputs of one sign make the steps zig-zag: centre them, or an activation that is zero-centred"
    yield Symptom("signs", NOTE if is_high else OK, words + (advice if is_high else ""))


def _symmetry(record: Record) -> Iterator[Symptom]:
    if record.trajectory is None or not record.trajectory.sizes.get("snapshot"):
        return
    theta = torch.from_numpy(record.trajectory["theta"].values[-1].astype(np.float64))
    shapes = _shapes(record.trajectory)
    parts = theta.split([math.prod(shape) for shape in shapes.values()])
    named = {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
    weights = {name: rows for name, rows in unit_rows(named).items() if len(rows) > 1 and name.endswith("weight")}
    shares = {name: distinct_units(rows) / len(rows) for name, rows in weights.items()}
    if not shares:
        return
    worst = min(shares, key=lambda name: shares[name])
    if shares[worst] == 1:
        yield Symptom("symmetry", OK, "no two units of a layer are the same at the end")
        return
    words = f"only {shares[worst]:.0%} of the units of {worst!r} differ at the end; start from random weights"
    yield Symptom("symmetry", PROBLEM, words)


def _generalization(record: Record) -> Iterator[Symptom]:
    training = record.training
    if {"train_accuracy", "val_accuracy"} <= set(training.data_vars) and training.sizes.get("epoch"):
        seen, unseen = _last(training, "train_accuracy"), _last(training, "val_accuracy")
        words = f"training accuracy {seen:.3f}, validation accuracy {unseen:.3f}"
        advice = "; more data or augmentation, weight decay, dropout, or fewer epochs"
        yield _graded("train/validation gap", seen - unseen, GAP, words, advice, "training-learning-curves")
    if "val_loss" in training and np.isfinite(losses := _of(training, "val_loss")).sum() > 1:
        best = int(np.nanargmin(losses))
        ratio = _last(training, "val_loss") / losses[best]
        words = f"lowest after epoch {best + 1} of {len(losses)}, the last is {ratio:.3g} times as high"
        is_over = ratio > OVERFITTED and best < len(losses) - 1
        advice = "; stop there (early_stopping, keep_best), or regularize"
        status = NOTE if is_over else OK
        yield Symptom("validation loss", status, words + (advice if is_over else ""), "training-learning-curves")


def _stability(record: Record) -> Iterator[Symptom]:
    found = record.asked("stability")
    if found is None:
        return
    name, answer = found
    ratios = _of(answer, "ratio")
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return
    middle = float(np.median(ratios[len(ratios) // 2 :]))
    kind = str(answer.attrs.get("algorithm", "the optimizer"))
    words = (
        f"median {middle:.2f} of the largest stable sharpness of {kind} in the second half, at most {ratios.max():.2f}"
    )
    advice = "; above 1 the step overshoots along the sharpest direction: smaller learning rate, or warm-up"
    yield _graded("sharpness against 2/eta", middle, EDGE, words, advice, f"{name}-stability-by-step")


def _noise(record: Record) -> Iterator[Symptom]:
    found = record.asked("gradient-noise")
    if found is None or record.batch_size is None:
        return
    name, answer = found
    scales = _of(answer, "noise_scale")
    scales = scales[np.isfinite(scales) & (scales > 0)]
    if not len(scales):
        return
    middle = float(np.median(scales))
    ratio = record.batch_size / middle
    words = f"batches of {record.batch_size}, noise scale {middle:.3g} examples (median of steps)"
    if ratio > LARGE_BATCH:
        words += "; so many examples a step hardly help: smaller batches learn as much from each step"
    elif ratio < NOISY:
        words += "; a step is nearly all noise: larger batches, or a smaller learning rate"
    yield Symptom("gradient noise", OK if NOISY <= ratio <= LARGE_BATCH else NOTE, words, f"{name}-noise-by-step")


CHECKS: tuple[Callable[[Record], Iterator[Symptom]], ...] = (
    _initial_loss,
    _loss,
    _gradient_over_depth,
    _bursts,
    _shares,
    _updates,
    _turns,
    _signs,
    _symmetry,
    _generalization,
    _stability,
    _noise,
)
"""A new check is added here."""


def _grade(value: float, limits: tuple[float, float]) -> str:
    return PROBLEM if value > limits[1] else NOTE if value > limits[0] else OK


def _graded(check: str, value: float, limits: tuple[float, float], words: str, advice: str, figure: str) -> Symptom:
    status = _grade(value, limits)
    return Symptom(check, status, words + (advice if status != OK else ""), figure)


def _of(answer: xr.Dataset, name: str) -> Floats:
    return np.asarray(answer[name].values, dtype=np.float64)


def _last(training: xr.Dataset, name: str) -> float:
    values = _of(training, name)
    return float(values[np.isfinite(values)][-1]) if np.isfinite(values).any() else math.nan


def _shapes(trajectory: xr.Dataset) -> dict[str, list[int]]:
    layout = json.loads(trajectory.attrs["layout"])
    return dict(zip(layout["names"], layout["shapes"], strict=True))
