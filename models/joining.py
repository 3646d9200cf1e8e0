"""Paths between runs: which can be joined, and the questions that `landscape path` and `landscape barriers` ask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape import Objective, ParameterLayout
from landscape.normalization import recalibrated_buffers
from landscape.paths.alignment import aligned
from landscape.paths.lines import Interpolation
from landscape.paths.matrices import ALIGNED, AS_TRAINED, BarrierMatrix
from landscape.paths.tracing import find_units
from landscape.paths.units import Units
from models.compatible import require_compatible
from models.config import RunConfig
from models.opened import Run, open_run

_NO_FACTORS = {"seed", "fork_seed"} | {f.name for f in fields(RunConfig) if f.metadata["group"] == "Running"}


def join(runs: Mapping[str, Run], **options: Any) -> tuple[Objective, Tensor]:
    """Put runs into one space: the objective of the first, and where each of them stands.

    BatchNorm is recalibrated on the training data at every point, the ends among them; so the values at an end are
    those that the run has stored only up to this, and equal to them where there is no BatchNorm.

    Args:
        runs: By the names that errors give them.
        **options: What `models.opened.Run.objective` takes.

    Returns:
        The objective, and (N, P) the points.

    Raises:
        MissingError: If one has no weights yet.
        ValueError: If there are fewer than two runs, or they differ in architecture, data or fixed buffers.
    """
    if len(runs) < 2:
        raise ValueError(f"a path needs two different finished runs, got {len(runs)}; name more, or train them first.")
    require_compatible(runs)
    _require_equal_data(runs)
    networks = {name: run.model() for name, run in runs.items()}
    first, *others = networks
    settled = {*recalibrated_buffers(networks[first])}
    buffers = {
        name: {b: t for b, t in network.named_buffers() if b not in settled and t.is_floating_point()}
        for name, network in networks.items()
    }
    for name in others:
        differing = [b for b, tensor in buffers[name].items() if not torch.equal(tensor, buffers[first][b])]
        if differing:
            raise ValueError(
                f"{name} and {first} differ in {differing[0]!r}, which is no parameter and lies on no path; compare "
                "runs in which it was drawn alike (the same seed)."
            )
    objective = runs[first].objective(normalization="recalibrated", **options)
    layout = ParameterLayout.of(networks[first])
    thetas = torch.stack([layout.current(network) for network in networks.values()]).to(objective.theta)
    return objective, thetas


def units_of(run: Run, permutations: Path | None = None) -> Units:
    """Find which hidden units of a run's network can trade places, or read it from a JSON file.

    Raises:
        ValueError: If there are none, or the file does not fit.
    """
    network = run.model()
    if permutations is None:
        return find_units(network, run.data().train.inputs[:2])
    try:
        written = json.loads(permutations.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the permutation specification {permutations}: {error}") from error
    if not isinstance(written, dict) or not all(isinstance(axes, list) for axes in written.values()):
        raise ValueError(f'{permutations} should hold an object such as {{"hidden1.weight": ["h1", null]}}.')
    return Units.read(written, network.state_dict())


def path_between(
    runs: Sequence[Path], align: bool, permutations: Path | None, settings: Mapping[str, Any], **options: Any
) -> tuple[Interpolation, Objective]:
    """Ask for the path between two runs, and for a second one to the second run with its units matched to the first.

    Args:
        runs: Two folders.
        align: Whether to match units.
        permutations: A specification of one's own, for `align`.
        settings: Further fields of `Interpolation`.
        **options: See `join`.

    Returns:
        The question, and the objective to ask it of.

    Raises:
        ValueError: See `join`; if the folders are not two, or permutations are given and nothing is aligned.
    """
    _require_use(permutations, align)
    opened = _opened(runs)
    objective, thetas = join(opened, **options)
    start, end = thetas
    ends = {AS_TRAINED: end}
    if align and not torch.equal(start, end):
        ends[ALIGNED] = aligned(objective, units_of(opened[str(runs[0])], permutations), start, end)
    return Interpolation(torch.stack(list(ends.values())), tuple(ends), **settings), objective


def matrix_of(
    runs: Sequence[Path], align: bool, permutations: Path | None, settings: Mapping[str, Any], **options: Any
) -> tuple[BarrierMatrix, Objective]:
    """Ask for the barriers between all pairs of runs, sorted and grouped by the factors in which they differ.

    Args:
        runs: Folders of runs, or folders that hold runs, such as that of a sweep; unfinished ones in there are left
            out.
        align: See `path_between`.
        permutations: See `path_between`.
        settings: Further fields of `BarrierMatrix`.
        **options: See `join`.

    Returns:
        The question, and the objective to ask it of.

    Raises:
        ValueError: See `path_between`.
    """
    _require_use(permutations, align)
    opened = _opened([folder for given in runs for folder in _runs_in(given)])
    groups = factor_groups(opened)
    names = sorted(opened, key=lambda name: (groups[name], _seed(opened[name]), name))
    objective, thetas = join({name: opened[name] for name in names}, **options)
    units = units_of(opened[names[0]], permutations) if align else None
    chosen = tuple(groups[name] for name in names)
    return BarrierMatrix(thetas, tuple(_short(names)), chosen, units, **settings), objective


def factor_groups(runs: Mapping[str, Run]) -> dict[str, str]:
    """Name what tells each run from the others beside its seeds, as in "batch_size=32, lr=0.1"."""
    configs = {name: run.config.to_dict() if run.config else {} for name, run in runs.items()}
    known = [field for field in next(iter(configs.values()), {}) if field not in _NO_FACTORS]
    differing = [field for field in known if len({repr(config.get(field)) for config in configs.values()}) > 1]
    return {name: ", ".join(f"{field}={config.get(field)}" for field in differing) for name, config in configs.items()}


def stored_metrics(run: Run) -> dict[str, float]:
    """Return what a run has stored of itself, by the metrics of a path; empty for imported weights."""
    found = run.metrics
    names = {"loss": "final_train_loss", "error": "final_train_accuracy"}
    names |= {"test_loss": "test_loss", "test_error": "test_accuracy"}
    known = {metric: found[name] for metric, name in names.items() if name in found}
    return {metric: 1 - value if metric.endswith("error") else value for metric, value in known.items()}


def _require_use(permutations: Path | None, align: bool) -> None:
    if permutations is not None and not align:
        raise ValueError(f"permutations say how units are matched, so {permutations} has no use without align; add it.")


def _opened(folders: Sequence[Path]) -> dict[str, Run]:
    """Open runs, each once."""
    resolved = [folder.resolve() for folder in folders]
    twice = sorted({str(f) for f, place in zip(folders, resolved, strict=True) if resolved.count(place) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is named twice, and there is no path from a run to itself; name each run once.")
    return {str(folder): open_run(folder) for folder in folders}


def _runs_in(folder: Path) -> list[Path]:
    """List a run itself, or the finished runs below a folder."""
    if (folder / "run.json").exists() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.rglob("run.json") if (path.parent / "weights.safetensors").exists())


def _require_equal_data(runs: Mapping[str, Run]) -> None:
    (first, one), *others = runs.items()
    for name, run in others:
        if run.about["data_sha256"] != one.about["data_sha256"]:
            options = (dict(each.config.data_options) if each.config else {} for each in (one, run))
            mine, theirs = options
            changed = [
                f"{key} {mine.get(key)!r} and {theirs.get(key)!r}" for key in mine if mine[key] != theirs.get(key)
            ]
            why = f" ({'; '.join(changed)})" if changed else ""
            raise ValueError(
                f"{first} and {name} were trained on different data{why}; a barrier needs one loss, so compare runs of "
                "the same data, split and noise."
            )


def _seed(run: Run) -> int:
    return run.config.seed if run.config else 0


def _short(names: Sequence[str]) -> list[str]:
    """Names without the folders that all of them share."""
    parts = [Path(name).parts for name in names]
    while all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    return ["/".join(part) for part in parts]
