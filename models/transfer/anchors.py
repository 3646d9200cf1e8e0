"""What keeps a network near what it knew: distances in weights, old examples, and a teacher's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from models.data import Examples
from models.registry import Registry

ANCHORS = Registry("anchor")
"""Functions `(memory, *, options)`: an `Anchor`. A new one needs only a penalty or more examples."""


@dataclass(frozen=True)
class Before:
    """A run that came before.

    Attributes:
        network: With its weights, in eval mode.
        examples: What it was trained on.
    """

    network: nn.Module
    examples: Examples


@dataclass(frozen=True)
class Memory:
    """What an anchor may know.

    Attributes:
        before: The run that this one starts from, the one that that started from, and so on.
        copied: Names of the parameters that were copied from the first of them.
        teacher: The network whose outputs are matched, in eval mode.
    """

    before: Sequence[Before] = ()
    copied: Sequence[str] = ()
    teacher: nn.Module | None = None


class Anchor:
    """Nothing to remember; what others derive from."""

    def extended(self, batch: Examples) -> Examples:
        """Return the batch to train on."""
        return batch

    def penalty(self, network: nn.Module, inputs: Tensor, logits: Tensor) -> Tensor | None:
        """Return what is added to the mean loss of a batch, a scalar; None for nothing."""
        return None


@dataclass(frozen=True)
class Joined(Anchor):
    """Several at once: examples are added one after the other, penalties are summed.

    Attributes:
        parts: In the order in which they are written.
    """

    parts: Sequence[Anchor]

    def extended(self, batch: Examples) -> Examples:
        """Return the batch with what each adds."""
        for part in self.parts:
            batch = part.extended(batch)
        return batch

    def penalty(self, network: nn.Module, inputs: Tensor, logits: Tensor) -> Tensor | None:
        """Return the sum of those that there are; None if there are none."""
        found = [part.penalty(network, inputs, logits) for part in self.parts]
        penalties = [penalty for penalty in found if penalty is not None]
        return sum(penalties[1:], penalties[0]) if penalties else None


@dataclass(frozen=True)
class Quadratic(Anchor):
    """strength / 2 sum_k sum_i c_ki (theta_i - theta*_ki)^2.

    Attributes:
        strength: Of the sum.
        terms: For each k, (weight c_k, center theta*_k) by the parameter's name.
    """

    strength: float
    terms: Sequence[dict[str, tuple[Tensor, Tensor]]] = field(repr=False)

    def penalty(self, network: nn.Module, inputs: Tensor, logits: Tensor) -> Tensor:
        """Return the weighted squared distance."""
        named = dict(network.named_parameters())
        parts = [(c * (named[n] - center).square()).sum() for term in self.terms for n, (c, center) in term.items()]
        return self.strength / 2 * torch.stack(parts).sum()


@dataclass(frozen=True)
class Rehearsal(Anchor):
    """Old examples beside the new ones.

    Attributes:
        share: Of the old examples in each batch.
        old: What they are drawn from.
    """

    share: float
    old: Examples = field(repr=False)

    def extended(self, batch: Examples) -> Examples:
        """Add n share / (1 - share) old examples, rounded, to n new ones; drawn with replacement, globally seeded."""
        count = round(len(batch.targets) * self.share / (1 - self.share))
        drawn = torch.randint(len(self.old.targets), (count,)).to(self.old.targets.device)
        parts = zip(batch, (self.old.inputs[drawn], self.old.targets[drawn]), strict=True)
        return Examples(*(torch.cat(part) for part in parts))


@dataclass(frozen=True)
class Distillation(Anchor):
    """The outputs of a teacher.

    Attributes:
        strength: Of the divergence.
        temperature: T.
        teacher: In eval mode.
    """

    strength: float
    temperature: float
    teacher: nn.Module = field(repr=False)

    def penalty(self, network: nn.Module, inputs: Tensor, logits: Tensor) -> Tensor:
        """Return strength T^2 KL(teacher || student) of both softened."""
        with torch.no_grad():
            wanted = self.teacher(inputs)
        return self.strength * distillation_loss(logits, wanted, self.temperature)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(v / T) || softmax(z / T)), the mean over examples.

    It differs from the cross-entropy of the soft targets by their entropy, which moves no gradient. Gradients tend
    to those of squared differences of centered logits, 1 / (2 K) ||z - v||^2, as T grows.

    Args:
        logits: (N, K) of the student, z.
        teacher_logits: (N, K) of the teacher, v.
        temperature: T > 0.

    References:
        Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2.
    """
    ours, theirs = (F.log_softmax(z / temperature, 1) for z in (logits, teacher_logits))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def fisher_diagonal(network: nn.Module, inputs: Tensor, chunk: int = 16) -> dict[str, Tensor]:
    """Return the diagonal of the Fisher information, 1/N sum_n E_y[(d log p(y | x_n) / d theta_i)^2], by parameter.

    The expectation over labels is that under the model's own distribution, summed over all classes instead of drawn,
    so it has no error of sampling. It is neither the empirical Fisher, whose labels are those of the data, nor the
    square of a mean gradient.

    Args:
        network: In eval mode, inputs (N, ...) -> logits (N, K).
        inputs: (N, ...).
        chunk: Examples whose Jacobians are held at once.

    References:
        Kunstner et al., "Limitations of the empirical Fisher approximation", NeurIPS 2019, equation 3.
    """
    theta = {name: parameter.detach() for name, parameter in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def log_probabilities(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return F.log_softmax(functional_call(network, {**parameters, **buffers}, (x.unsqueeze(0),))[0], 0)

    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    for part in inputs.split(chunk):
        jacobians = vmap(jacrev(log_probabilities), (None, 0))(theta, part)
        with torch.no_grad():
            p = F.softmax(network(part), 1)
        for name, jacobian in jacobians.items():
            total[name] += torch.einsum("nk,nk...->...", p, jacobian.square())
    return {name: value / len(inputs) for name, value in total.items()}


@ANCHORS.register("none")
def none(memory: Memory) -> Anchor:
    """Forget freely."""
    return Anchor()


@ANCHORS.register("l2-sp")
def l2_sp(memory: Memory, *, strength: float, beta: float = 0.0) -> Anchor:
    """Add strength/2 times the squared distance to the weights of the start (Li et al. 2018, L2-SP).

    A classifier that begins anew has no such weights: beta/2 times its own squared norm is added. Other than
    weight_decay, this leaves everything else alone.
    """
    theta = dict(memory.before[0].network.named_parameters())
    one = torch.ones((), device=next(iter(theta.values())).device)
    near = {name: (one, value.detach()) for name, value in theta.items() if name in memory.copied}
    small = {name: (one, torch.zeros_like(one)) for name in theta if name not in memory.copied}
    return Joined([Quadratic(strength, [near]), *([Quadratic(beta, [small])] if beta else [])])


@ANCHORS.register("ewc")
def ewc(memory: Memory, *, strength: float, examples: int = 1000) -> Anchor:
    """Add strength/2 sum F_i (theta_i - theta*_i)^2 for every run before, F its Fisher diagonal (Kirkpatrick 2017).

    Each has its own term, at its weights and on the first `examples` of its training data, whose order is random.
    """
    terms = []
    for before in memory.before:
        fisher = fisher_diagonal(before.network, before.examples.inputs[:examples])
        theta = dict(before.network.named_parameters())
        terms.append({name: (fisher[name], theta[name].detach()) for name in theta if name in memory.copied})
    return Quadratic(strength, terms)


@ANCHORS.register("rehearsal")
def rehearsal(memory: Memory, *, share: float) -> Anchor:
    """Add examples of all runs before to each batch, so that they are a share of it (Robins 1995).

    The mean loss of such a batch mixes the gradients of new and old data with the weights 1 - share and share.
    """
    parts = zip(*(before.examples for before in memory.before), strict=True)
    return Rehearsal(share, Examples(*(torch.cat(part) for part in parts)))


@ANCHORS.register("distill")
def distill(memory: Memory, *, strength: float, temperature: float = 4.0) -> Anchor:
    """Add strength T^2 KL(teacher || student) of outputs softened by the temperature T (Hinton et al. 2015).

    The teacher is the run of the field teacher, or else of start; its outputs on new data alone are learning without
    forgetting (Li & Hoiem 2016).
    """
    assert memory.teacher is not None
    return Distillation(strength, temperature, memory.teacher)


def anchor_names(text: str) -> list[str]:
    """Return the names of anchors that are joined by +; none for "none"."""
    return [name for name, _ in ANCHORS.read_all(text)]


def needs_ancestors(text: str) -> bool:
    """Whether one of the anchors remembers the data of every run before."""
    return bool({"ewc", "rehearsal"} & set(anchor_names(text)))


def make_anchor(text: str, memory: Memory) -> Anchor:
    """Build the anchors that are joined by +."""
    return Joined([ANCHORS[name](memory, **options) for name, options in ANCHORS.read_all(text)])


def check_anchor(text: str) -> None:
    """Refuse anchors that cannot be read, or whose options are out of range.

    Raises:
        ValueError: If a name, an option or a value is not one that can be used, or a name comes twice.
    """
    names = anchor_names(text)
    if "none" in names:
        raise ValueError(f"anchor 'none' stands alone, got {text!r}; leave it out")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"anchor {twice[0]!r} is there twice in {text!r}; give each once")
    for name, options in ANCHORS.read_all(text):
        for option, value in options.items():
            _require(name, option, value)


def _require(name: str, option: str, value: Any) -> None:
    inside = {"share": 0 < value < 1, "examples": value >= 1, "temperature": 0 < value < float("inf")}
    if not inside.get(option, 0 <= value < float("inf")):
        wanted = {"share": "between 0 and 1", "examples": "of at least 1", "temperature": "above 0"}
        raise ValueError(f"anchor {name!r} needs {option} {wanted.get(option, 'of at least 0')}, got {value}")
