"""Start a network from the weights of another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from landscape.weights import digest_tensors, load_weights
from models.config import RunConfig
from models.opened import Run, open_run
from models.transfer.anchors import needs_ancestors


@dataclass(frozen=True)
class Copied:
    """What became of a network's tensors.

    Attributes:
        names: Parameters and buffers that were copied.
        reinitialized: Those of the classifier, where the number of classes differs: they keep their initial values.
    """

    names: tuple[str, ...]
    reinitialized: tuple[str, ...]


def classifier_of(network: nn.Module) -> str:
    """Return the name of the last module with a weight of two or more axes, such as "head".

    Raises:
        ValueError: If there is none.
    """
    names = [name for name, parameter in network.named_parameters() if parameter.ndim > 1]
    if not names:
        raise ValueError(f"{type(network).__name__} has no weight of two axes that could be a classifier")
    return names[-1].rpartition(".")[0]


def in_classifier(network: nn.Module) -> set[str]:
    """Return the names of the classifier's parameters."""
    module = classifier_of(network)
    return {name for name, _ in network.named_parameters() if name.rpartition(".")[0] == module}


def start_digest(folder: str | Path) -> str:
    """Digest of the weights of a run that others start from.

    Raises:
        MissingError: If there is no run, or it has not finished.
    """
    return digest_tensors(open_run(folder).model().state_dict())


def require_unchanged(config: RunConfig, about: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a run whose start or teacher has other weights than when it began.

    Args:
        config: Of the run.
        about: What its `run.json` says.
        folder: Where it lies, for the message.

    Raises:
        MissingError: If one of them is gone.
        ValueError: If one of them has other weights.
    """
    for name, other in (("start", config.start), ("teacher", config.teacher)):
        if other is not None and start_digest(other) != about[f"{name}_sha256"]:
            raise ValueError(
                f"the weights of {other} have changed since {folder} began; restore them, or choose another folder"
            )
    if needs_ancestors(config.anchor):
        require_unchanged_ancestors(config.start)


def require_unchanged_ancestors(folder: str | None) -> None:
    """Refuse a chain of runs, of which an anchor remembers each, if one has other weights than when the next began.

    Raises:
        MissingError: If one of them is gone.
        ValueError: If one of them has other weights.
    """
    for run in ancestors(folder):
        if run.config is None or run.config.start is None:
            continue
        if start_digest(run.config.start) != run.about["start_sha256"]:
            raise ValueError(
                f"the weights of {run.config.start} have changed since {run.folder} began from them, and an anchor "
                "remembers both; restore them, or train that run again"
            )


def copy_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Copied:
    """Copy the weights of a network of the same architecture; a classifier of other classes keeps its own.

    Args:
        network: Where to, changed in place.
        tensors: Parameters and buffers by name.
        source: What the tensors are called in messages.

    Raises:
        ValueError: If a name or shape outside of the classifier differs; the message names the first ones.
    """
    own, head = network.state_dict(), in_classifier(network)
    differing = [name for name in own if name not in tensors or own[name].shape != tensors[name].shape]
    strange = [name for name in differing if name not in head] + [name for name in tensors if name not in own]
    if strange:
        listed = ", ".join(_difference(name, own, tensors) for name in strange[:3])
        raise ValueError(
            f"the network differs from that of {source} in {len(strange)} tensors ({listed}); "
            "start with the same model, options and shape of input"
        )
    kept = tuple(name for name in own if not differing or name not in head)
    network.load_state_dict({name: tensors[name] for name in kept}, strict=False)
    return Copied(kept, tuple(name for name in own if name not in kept))


def start_from(network: nn.Module, config: RunConfig, folder: str) -> Copied:
    """Copy the weights of a finished run into a network.

    Raises:
        MissingError: If there is no run in the folder, or it has not finished.
        ValueError: If its architecture is another one; the message names what differs.
    """
    run = open_run(folder)
    require_same_model(config, run)
    run.model()  # refuses weights that are missing or not finite
    return copy_weights(network, load_weights(run.folder / "weights.safetensors")[0], folder)


def require_same_model(config: RunConfig, run: Run) -> None:
    """Refuse a run of another architecture.

    Raises:
        ValueError: If the model or one of its options differs.
    """
    if run.config is None:
        return
    theirs: dict[str, Any] = {"model": run.config.model, **run.config.architecture_options}
    ours: dict[str, Any] = {"model": config.model, **config.architecture_options}
    changed = [f"{name} is {theirs.get(name)!r} there, {value!r} here" for name, value in ours.items()]
    listed = [text for text, (name, value) in zip(changed, ours.items(), strict=True) if theirs.get(name) != value]
    if listed:
        raise ValueError(f"{run.folder} has another architecture ({'; '.join(listed)}); start with the same one")


def ancestors(folder: str | None) -> list[Run]:
    """Return the run in a folder, the one it started from, and so on.

    Raises:
        MissingError: If one of them is no longer there.
    """
    found: list[Run] = []
    while folder is not None:
        run = open_run(folder)
        found.append(run)
        folder = None if run.config is None else run.config.start
    return found


def _difference(name: str, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    if name not in theirs:
        return f"{name} is missing there"
    if name not in own:
        return f"{name} is only there"
    return f"{name} is {tuple(theirs[name].shape)} there, {tuple(own[name].shape)} here"
