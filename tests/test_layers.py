from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import execution
from landscape.execution import SerialExecutor, Work
from landscape.objective import Objective
from landscape.parameters import ParameterLayout
from landscape.probes import Layers, layers
from landscape.probes.layers import rows_of
from tests import oracles
from tests.problems import InterruptedJournal, built, network, quadratic, rotated, vectors

COLUMNS = ("trace", "frobenius_norm", "largest_eigenvalue", "smallest_eigenvalue", "gradient_norm")


def truth(model, data, members) -> dict[str, np.ndarray]:
    """The same columns from the dense Hessian and gradient, `members` saying which names a row has."""
    dense, gradient = oracles.dense_hessian(model, data), oracles.gradient(model, data)
    names = [(n, p.numel()) for n, p in model.named_parameters() if p.requires_grad]
    owner = [n for n, size in names for _ in range(size)]
    rows = {name: [] for name in COLUMNS}
    for row in members:
        chosen = torch.tensor([name in row for name in owner])
        block = dense[chosen][:, chosen]
        values = torch.linalg.eigvalsh(block)
        numbers = (block.trace(), block.norm(), values[-1], values[0], gradient[chosen].norm())
        for name, number in zip(COLUMNS, numbers, strict=True):
            rows[name].append(number.item())
    return {name: np.array(column) for name, column in rows.items()}


@pytest.mark.parametrize("name", ["perceptron", "BatchNorm", "tied, frozen, unused", "transposed convolution"])
@pytest.mark.parametrize("by", ["layer", "parameter"])
def test_every_row_is_its_block_of_the_dense_hessian(name, by):
    """Blocks this small are written out, so that every column is exact."""
    model, data = network(name)
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = Layers(by=by)(objective)
    rows = rows_of(objective.layout, by)
    assert list(answer.layer.values) == list(rows)
    exact = truth(model, data, rows.values())
    for column in COLUMNS:
        assert np.allclose(answer[column], exact[column], atol=1e-10), column
    assert (answer.trace_standard_error == 0).all()
    assert answer.largest_converged.all() and answer.smallest_converged.all()
    assert answer.num_parameters.sum() == objective.size
    assert answer.num_matvecs.values.tolist() == answer.num_parameters.values.tolist()
    assert answer.loss.item() == pytest.approx(objective.loss().item())


def _double(data):
    return data[0].double(), data[1]


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Linear(30, 12), nn.Tanh(), nn.Linear(12, 3))


def test_larger_layers_are_estimated_with_their_errors():
    model = built(wide, dtype=torch.float64)
    inputs, targets = vectors()
    data = (inputs.double(), targets)
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = Layers(tol=1e-6)(objective)
    exact = truth(model, data, rows_of(objective.layout).values())
    assert answer.num_parameters.values.tolist() == [180, 372, 39]
    off = np.abs(answer.trace - exact["trace"])
    assert (off <= 3 * answer.trace_standard_error + 1e-10).all()
    assert (answer.trace_low <= answer.trace).all() and (answer.trace <= answer.trace_high).all()
    scale = exact["largest_eigenvalue"]
    for end in ("largest", "smallest"):
        assert np.allclose(answer[f"{end}_eigenvalue"], exact[f"{end}_eigenvalue"], atol=1e-5 * scale.max())
        assert (answer[f"{end}_residual"] <= 1e-6 * scale.max()).all()
    assert np.allclose(answer.frobenius_norm, exact["frobenius_norm"], rtol=0.02)
    assert answer.num_matvecs[2].item() == 39
    assert (answer.num_matvecs[:2] > 40).all()  # the eigenvalues take products too


def test_the_eigenvectors_at_hand_are_taken_out_of_the_trace(monkeypatch):
    deflated, original = [], layers.trace
    monkeypatch.setattr(layers, "trace", lambda *a, **s: deflated.append(s["deflate"]) or original(*a, **s))
    spectrum = torch.cat([torch.tensor([1e4, -1e3]), torch.linspace(0, 1, 148)]).double()
    answer = Layers(num_matvecs=20)(quadratic(rotated(spectrum)))
    assert deflated[0].values.tolist() == pytest.approx([1e4, -1e3], abs=1)
    assert abs(answer.trace.item() - spectrum.sum().item()) < 3 * answer.trace_standard_error.item() < 30


def test_a_budget_that_ends_early_is_said():
    model = built(wide, dtype=torch.float64)
    inputs, targets = vectors()
    answer = Layers(tol=1e-9, max_matvecs=3)(Objective(model, (inputs.double(), targets), loss=F.cross_entropy))
    assert answer.largest_converged.values.tolist() == [False, False, True]
    assert answer.largest_residual[0] > 0


def test_without_eigenvalues_all_traces_come_from_the_same_products():
    model = built(wide, dtype=torch.float64)
    inputs, targets = vectors()
    data = (inputs.double(), targets)
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = Layers(eigenvalues=False, num_matvecs=200)(objective)
    exact = truth(model, data, rows_of(objective.layout).values())
    assert answer.num_matvecs.item() == 200
    assert (np.abs(answer.trace - exact["trace"]) <= 3.5 * answer.trace_standard_error + 1e-10).all()
    assert np.allclose(answer.gradient_norm, exact["gradient_norm"])
    assert "largest_eigenvalue" not in answer and "frobenius_norm" not in answer


@pytest.mark.parametrize("eigenvalues", [True, False])
def test_a_pattern_chooses_rows(eigenvalues):
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = Layers(parameters="fc.*", eigenvalues=eigenvalues)(objective)
    assert list(answer.layer.values) == ["fc"]
    exact = truth(model, data, [("fc.weight", "fc.bias")])
    for column in ("trace", "gradient_norm"):
        assert np.allclose(answer[column], exact[column])


def test_the_parameters_of_a_module_are_one_row_and_those_of_the_model_stand_alone():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.body = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
            self.shift = nn.Parameter(torch.ones(2))

    layout = ParameterLayout.of(Own())
    assert rows_of(layout) == {
        "scale": ("scale",),
        "shift": ("shift",),
        "body.0": ("body.0.weight", "body.0.bias"),
        "body.1": ("body.1.weight", "body.1.bias"),
    }
    assert list(rows_of(layout, "parameter")) == list(layout.names)


def test_names_are_taken_as_they_are_not_as_patterns():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.items = nn.ParameterDict({"w[0]": nn.Parameter(torch.ones(2)), "w0": nn.Parameter(torch.ones(2))})

        def forward(self, inputs):
            return (self.items["w[0]"].square() + 3 * self.items["w0"].square()).sum() + 0 * inputs.sum()

    objective = Objective(Odd(), (torch.zeros(3, 1), torch.zeros(3)), loss=lambda output, _: output.mean())
    answer = Layers(by="parameter")(objective)
    assert dict(zip(answer.layer.values.tolist(), answer.trace.values.tolist(), strict=True)) == pytest.approx(
        {"items.w[0]": 4.0, "items.w0": 12.0}
    )


def test_a_layer_of_one_parameter_has_one_eigenvalue():
    answer = Layers()(quadratic(torch.tensor([[3.0]], dtype=torch.float64)))
    assert answer.largest_eigenvalue.item() == answer.smallest_eigenvalue.item() == pytest.approx(3)
    assert answer.num_matvecs.item() == 1


def test_a_layer_without_curvature_has_zeros():
    model, data = network("tied, frozen, unused")
    answer = Layers()(Objective(model, data, loss=F.cross_entropy)).sel(layer="unused")
    assert [answer[column].item() for column in COLUMNS] == [0.0] * 5


@pytest.mark.parametrize("eigenvalues", [True, False])
def test_resumed_is_uninterrupted(eigenvalues):
    objective = quadratic(rotated(torch.linspace(-1, 3, 150, dtype=torch.float64)))
    probe, journal = Layers(eigenvalues=eigenvalues), InterruptedJournal(most=4)
    whole = probe(objective)
    with pytest.raises(KeyboardInterrupt), execution.working(Work(SerialExecutor(), journal)):
        probe(objective)
    journal.most = None
    with execution.working(Work(SerialExecutor(), journal)):
        assert probe(objective).identical(whole)


def test_the_progress_is_that_of_the_layers_and_never_steps_back():
    """The solvers of every block report the same stages from zero on."""
    objective = Objective(built(wide, dtype=torch.float64), _double(vectors()), loss=F.cross_entropy)
    seen: list[tuple[str, int, int]] = []
    with execution.working(Work(SerialExecutor(), progress=lambda *step: seen.append(step))) as work:
        Layers()(objective)
        assert work.progress is not None
        execution.report_progress("after", 1, 1)
    assert seen == [*(("layers", done, 3) for done in range(4)), ("after", 1, 1)]


def test_refusals():
    for settings, message in (
        ({"by": "row"}, "by must be layer or parameter, got 'row'"),
        ({"tol": 1.0}, "tol must lie between 0 and 1"),
        ({"max_matvecs": 1}, "max_matvecs must be at least 2, got 1"),
        ({"num_matvecs": 0}, "num_matvecs must be at least 1"),
        ({"confidence": 0.0}, "confidence must lie"),
        ({"seed": -1}, "seed must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Layers(**settings)
    with pytest.raises(ValueError, match="matches no trainable parameter"):
        Layers(parameters="nothing.*")(quadratic(rotated([1.0, 2.0])))
