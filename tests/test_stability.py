from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import optim

from landscape.execution import SerialExecutor, Work, remember, remembered, working
from landscape.measure import answer_name, ask
from landscape.objective import Objective
from landscape.optimizer_state import OptimizerState
from landscape.probes import Spectrum, Stability, SubspaceOverlap
from landscape.store import Store
from tests import oracles
from tests.problems import Quadratic, built, network, perceptron, quadratic, rotated, seeded, vectors
from tests.test_optimizer_state import trained

LONG = torch.linspace(-0.5, 1, 150, dtype=torch.float64)
TIGHT = 1e-6


def spiked(*top: float):
    """A full matrix of 150 parameters with these eigenvalues above a bulk that ends at 1."""
    return rotated(torch.cat([LONG[: 150 - len(top)], torch.tensor(top, dtype=torch.float64)]))


def objective_with(make, matrix, steps: int = 0) -> tuple[Objective, optim.Optimizer, Quadratic]:
    model = Quadratic(matrix)
    optimizer = make(model.parameters())
    inputs = torch.zeros(3, 1, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).backward()
        optimizer.step()
    data = (inputs, torch.zeros(3, dtype=torch.float64))
    return Objective(model, data, loss=lambda o, _t: o.mean(), optimizer=optimizer), optimizer, model


@pytest.mark.parametrize(
    ("probe", "threshold", "algorithm"),
    [
        (Stability(lr=0.5, optimizer="sgd", tol=TIGHT), 4.0, "gradient descent"),
        (Stability(lr=0.5, optimizer="sgd", momentum=0.9, tol=TIGHT), 7.6, "heavy ball"),
        (Stability(lr=0.5, optimizer="nesterov", momentum=0.9, tol=TIGHT), 3.8 / 2.8 * 2, "Nesterov momentum"),
    ],
)
def test_gradient_descent_as_asked_for(probe, threshold, algorithm):
    answer = probe(quadratic(spiked(8.0)))
    assert answer.sharpness.item() == pytest.approx(8.0) and answer.threshold.item() == pytest.approx(threshold)
    assert answer.ratio.item() == pytest.approx(8.0 / threshold)
    assert answer.ratio_residual.item() == pytest.approx(answer.sharpness_residual.item() / threshold)
    assert answer.preconditioned_sharpness.item() == answer.sharpness.item()
    assert answer.converged and answer.num_matvecs > 0 and answer.attrs["algorithm"] == algorithm


def test_sharpness_is_the_largest_not_the_largest_magnitude():
    answer = Stability(lr=0.5, optimizer="sgd")(quadratic(rotated([-9.0, 2.0, 1.0])))
    assert answer.sharpness.item() == pytest.approx(2.0)


def test_the_optimizer_of_the_objective_is_asked():
    objective, _, _ = objective_with(lambda p: optim.SGD(p, 0.25, momentum=0.5), spiked(8.0))
    answer = Stability(tol=TIGHT)(objective)
    assert answer.ratio.item() == pytest.approx(8.0 * 0.25 / 3.0) and answer.learning_rate.item() == 0.25
    other = Stability(lr=0.5, tol=TIGHT)(objective)  # another learning rate, the rest as it is
    assert other.ratio.item() == pytest.approx(8.0 * 0.5 / 3.0) and other.momentum.item() == 0.5


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_adam_meets_the_hessian_in_its_own_metric(decay):
    A = spiked(8.0)
    objective, optimizer, model = objective_with(lambda p: optim.Adam(p, 0.01, weight_decay=decay), A, steps=4)
    answer = Stability(tol=TIGHT)(objective)
    v = optimizer.state[model.w]["exp_avg_sq"]
    P = (1 - 0.9**4) * ((v / (1 - 0.999**4)).sqrt() + 1e-8)
    exact = torch.linalg.eigvals(torch.diag(1 / P) @ (A + decay * torch.eye(150))).real.max().item()
    assert answer.preconditioned_sharpness.item() == pytest.approx(exact, rel=1e-5)
    assert answer.ratio.item() == pytest.approx(exact * 0.01 / 38, rel=1e-5)
    assert answer.sharpness.item() == pytest.approx(8.0)
    assert answer.attrs["algorithm"] == "Adam"


def test_coupled_weight_decay_moves_the_ratio_alone():
    objective, _, _ = objective_with(lambda p: optim.SGD(p, 0.25, weight_decay=0.5), spiked(8.0))
    answer = Stability(tol=TIGHT)(objective)
    assert answer.sharpness.item() == pytest.approx(8.0)
    assert answer.preconditioned_sharpness.item() == pytest.approx(8.5)
    assert answer.ratio.item() == pytest.approx(8.5 * 0.25 / 2)


def test_adam_before_its_first_step_has_no_ratio():
    objective, _, _ = objective_with(lambda p: optim.Adam(p, 0.01), spiked(8.0))
    answer = Stability()(objective)
    assert np.isnan(answer.ratio) and np.isnan(answer.preconditioned_sharpness)
    assert answer.sharpness.item() == pytest.approx(8.0, rel=1e-3) and answer.threshold.item() == pytest.approx(3800)


def test_a_learning_rate_of_zero_is_infinitely_stable():
    objective, _, _ = objective_with(lambda p: optim.SGD(p, 0.0), spiked(8.0))
    answer = Stability()(objective)
    assert answer.ratio.item() == 0 and answer.threshold.item() == np.inf


def test_only_what_depends_on_the_optimizer_is_named_by_it(tmp_path):
    model, optimizer = trained(lambda p: optim.Adam(p, 0.01))
    data = (vectors()[0].double(), vectors()[1])
    with_state = Objective(model, data, loss=F.cross_entropy, optimizer=optimizer)
    without = Objective(model, data, loss=F.cross_entropy)
    for probe in (Spectrum(k=1), Stability(lr=0.1, optimizer="sgd"), SubspaceOverlap(k=2, minibatch=5)):
        assert answer_name(probe, with_state) == answer_name(probe, without)
    faster = OptimizerState.of(optim.SGD(model.parameters(), 0.2), model)
    other = Objective(model, data, loss=F.cross_entropy, optimizer=faster)
    assert answer_name(Stability(), with_state) != answer_name(Stability(), other)
    with pytest.raises(ValueError, match="knows no optimizer"):
        answer_name(Stability(), without)
    store = Store(tmp_path)
    answer = ask(Stability(), with_state, store)
    assert answer.attrs["optimizer_sha256"] == with_state.optimizer_state.digest()
    assert ask(Stability(), with_state, store).identical(answer)


# --- where the gradient lies ------------------------------------------------------------------------------------


def test_shares_are_those_of_the_dense_eigenvectors():
    model, data = network("attention")
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = SubspaceOverlap(k=3, minibatch=8, draws=6, tol=1e-8)(objective)
    values, V = torch.linalg.eigh(oracles.dense_hessian(model, data))
    V, values = V.flip(1)[:, :3], values.flip(0)[:3]
    g = oracles.gradient(model, data)
    exact = ((V.T @ g) ** 2).cumsum(0) / (g @ g)
    assert answer.overlap_by_rank.values == pytest.approx(exact.numpy(), rel=1e-6)
    assert answer.overlap.item() == answer.overlap_by_rank.values[-1]
    assert answer.eigenvalue.values == pytest.approx(values.numpy())
    assert answer.chance.item() == pytest.approx(3 / len(g)) and answer["rank"].values.tolist() == [1, 2, 3]
    assert answer.gradient_norm.item() == pytest.approx(g.norm().item())
    drawn = []
    for number in range(6):
        seed = int(np.random.SeedSequence([0, 1, number]).generate_state(1)[0])
        chosen = torch.randperm(23, generator=seeded(seed))[:8]
        part = oracles.gradient(model, (data[0][chosen], data[1][chosen]))
        drawn.append((((V.T @ part) ** 2).sum() / (part @ part)).item())
    assert answer.minibatch_overlap.item() == pytest.approx(np.mean(drawn), rel=1e-6)
    assert answer.minibatch_overlap_standard_error.item() == pytest.approx(np.std(drawn, ddof=1) / 6**0.5, rel=1e-6)


def test_the_control_is_a_random_space_on_which_the_same_gradients_are_projected():
    model, data = network("attention")
    answer = SubspaceOverlap(k=3, minibatch=8, draws=6)(Objective(model, data, loss=F.cross_entropy))
    g = oracles.gradient(model, data)
    of_control = int(np.random.SeedSequence([0, 0]).generate_state(1)[0])
    Q = torch.linalg.qr(torch.randn(len(g), 3, generator=seeded(of_control), dtype=torch.float64)).Q
    drawn = []
    for number in range(6):
        seed = int(np.random.SeedSequence([0, 1, number]).generate_state(1)[0])
        chosen = torch.randperm(23, generator=seeded(seed))[:8]
        part = oracles.gradient(model, (data[0][chosen], data[1][chosen]))
        drawn.append((((Q.T @ part) ** 2).sum() / (part @ part)).item())
    assert answer.control_overlap.item() == pytest.approx((((Q.T @ g) ** 2).sum() / (g @ g)).item(), rel=1e-6)
    assert answer.minibatch_control_overlap.item() == pytest.approx(np.mean(drawn), rel=1e-6)
    error = answer.minibatch_control_overlap_standard_error.item()
    assert error == pytest.approx(np.std(drawn, ddof=1) / 6**0.5, rel=1e-6)


def test_a_gradient_inside_outside_and_across_the_space():
    A = spiked(8.0, 9.0, 10.0)
    _, Q = torch.linalg.eigh(A)
    for start, share in ((Q[:, -1] + Q[:, -3], 1.0), (Q[:, 5], 0.0), (Q[:, -1] / 10 + Q[:, 0] / LONG[0], 0.5)):
        answer = SubspaceOverlap(k=3, minibatch=2, tol=TIGHT)(quadratic(A, start=start))
        assert answer.overlap.item() == pytest.approx(share, abs=1e-6)


def test_a_random_subspace_holds_what_chance_gives():
    shares = [
        SubspaceOverlap(k=10, minibatch=2, draws=2, seed=seed)(quadratic(spiked(8.0))).control_overlap.item()
        for seed in range(40)
    ]
    assert abs(np.mean(shares) - 10 / 150) < 3 * np.std(shares, ddof=1) / 40**0.5


def test_the_error_bound_holds_and_says_where_the_space_is_not_defined():
    rough = SubspaceOverlap(k=2, minibatch=2, tol=0.05)(quadratic(spiked(4.0, 8.0)))
    exact = SubspaceOverlap(k=2, minibatch=2, tol=1e-8)(quadratic(spiked(4.0, 8.0)))
    assert abs(rough.overlap - exact.overlap) <= rough.overlap_error + 1e-9
    assert exact.overlap_error < 1e-6
    double = SubspaceOverlap(k=2, minibatch=2)(quadratic(spiked(4.0, 4.0, 8.0)))  # the second and third are the same
    assert double.overlap_error == 1.0
    whole = SubspaceOverlap(k=3, minibatch=2)(quadratic(rotated([3.0, 2.0, 1.0])))
    assert whole.overlap.item() == pytest.approx(1.0) and whole.overlap_error == 0 and whole.chance == 1


def test_no_gradient_has_no_share():
    answer = SubspaceOverlap(k=1, minibatch=2)(quadratic(rotated([3.0, 2.0]), start=torch.zeros(2).double()))
    assert np.isnan(answer.overlap) and answer.gradient_norm == 0


def test_spaces_are_compared_with_those_remembered():
    work = Work(SerialExecutor())
    probe = SubspaceOverlap(k=2, minibatch=2, tol=TIGHT)
    with working(work):
        first = probe(quadratic(spiked(4.0, 8.0)))
        same = probe(quadratic(spiked(5.0, 9.0)))
        other = probe(quadratic(rotated(torch.cat([LONG[:148], torch.tensor([4.0, 8.0])]), seed=3)))
    assert "overlap_with_previous" not in first
    assert same.overlap_with_previous.item() == pytest.approx(1, abs=1e-6)
    assert other.overlap_with_previous < 0.1
    assert "overlap_with_previous" not in probe(quadratic(spiked(4.0, 8.0)))  # outside a series nothing is remembered


def test_memory_belongs_to_the_work_at_hand():
    remember("nothing", torch.ones(1))
    assert remembered("nothing") is None
    work = Work(SerialExecutor())
    with working(work):
        remember("vector", torch.ones(2, requires_grad=True))
        assert torch.equal(remembered("vector"), torch.ones(2)) and remembered("other") is None
    assert remembered("vector") is None and not work.memory["vector"].requires_grad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": float("inf")}, "lr must be positive, got inf"),
        ({"lr": 0.1, "optimizer": "adam"}, "optimizer must be one of sgd, nesterov, got 'adam'"),
        ({"optimizer": "sgd"}, "optimizer='sgd' needs lr= too"),
        ({"lr": 0.1, "optimizer": "sgd", "momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"momentum": 0.9}, "momentum= goes with optimizer="),
        ({"tol": 0.0}, "tol must lie between 0 and 1, got 0.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_refusals_of_stability(fields, message):
    with pytest.raises(ValueError, match=message):
        Stability(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"minibatch": 0}, "minibatch must be at least 1, got 0"),
        ({"draws": 1}, "draws must be at least 2, got 1"),
        ({"tol": 1.0}, "tol must lie between 0 and 1, got 1.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_refusals_of_overlap(fields, message):
    with pytest.raises(ValueError, match=message):
        SubspaceOverlap(**fields)


def test_refusals_before_any_compute():
    objective = Objective(built(perceptron), vectors(), loss=F.cross_entropy)
    with pytest.raises(ValueError, match="k must lie between 1 and the number of parameters 57, got 58"):
        SubspaceOverlap(k=58)(objective)
    with pytest.raises(ValueError, match="minibatch must lie between 1 and the number of examples 23, got 24"):
        SubspaceOverlap(minibatch=24)(objective)
    with pytest.raises(ValueError, match="this objective knows no optimizer"):
        Stability()(objective)
    assert objective.num_passes == 0


def test_minibatches_of_what_cannot_be_cut_are_refused_before_any_compute():
    class Batches:  # their tensors do not all count examples along the first axis
        def __iter__(self):
            for _ in range(2):
                yield {"inputs": torch.ones(4, 5), "all": torch.ones(1), "targets": torch.tensor([0, 1, 2, 0])}

    def step(model, batch):
        return F.cross_entropy(model(batch["inputs"]), batch["targets"])

    objective = Objective(built(perceptron), Batches(), step=step)
    assert not objective.examples.divisible
    with pytest.raises(ValueError, match="this data comes in batches that cannot be cut"):
        SubspaceOverlap(k=2, minibatch=4)(objective)
    assert objective.num_passes == 0


def test_equal_questions_are_equal():
    objective = quadratic(rotated([3.0, 2.0]))
    one, same = Stability(lr=1, optimizer="sgd"), Stability(lr=1.0, optimizer="sgd", momentum=0)
    assert answer_name(one, objective) == answer_name(same, objective)
    assert Stability().lr is None
