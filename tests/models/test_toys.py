"""Toys whose critical points are known, the optimizers that race over them, and what their answers say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import norm

from landscape.intervals import wilson
from landscape.store import Journal
from models.optimizers import OPTIMIZERS, build_optimizer
from models.toys import (
    RACERS,
    TOYS,
    Race,
    Racer,
    Toy,
    adam_path,
    basins,
    definite_share,
    follow,
    online,
    race,
    read_racers,
    rows,
    sweep,
)
from models.toys.racing import first
from tests.models.test_optimizers import EXACT, RULES, A, by_hand, tolerance

SURFACES = [name for name in TOYS if isinstance(TOYS.build(name), Toy)]


def inside(toy: Toy, number: int = 50) -> torch.Tensor:
    """(number, 2) points of the picture."""
    left, right, bottom, top = toy.view
    shares = torch.rand(number, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.tensor([left, bottom]) + shares * torch.tensor([right - left, top - bottom])


def gradient(toy: Toy, points) -> torch.Tensor:
    at = torch.as_tensor(points, dtype=torch.float64).clone().requires_grad_()
    return torch.autograd.grad(toy.loss(at).sum(), at)[0]


# --- the toys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SURFACES)
def test_gradients_are_those_of_central_differences(name):
    toy, h = TOYS.build(name), 1e-5
    points = inside(toy)
    shifts = h * torch.eye(2, dtype=torch.float64)
    differences = torch.stack([(toy.loss(points + s) - toy.loss(points - s)) / (2 * h) for s in shifts], -1)
    # h^2 of third derivatives that reach 1e4 for Beale and Rosenbrock, and rounding of 1e-16 * 1e4 / h
    torch.testing.assert_close(gradient(toy, points), differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SURFACES)
def test_minimizers_are_the_lowest_points(name):
    toy = TOYS.build(name)
    if toy.lowest is None:
        assert not len(toy.minimizers) and toy.distances(np.zeros((3, 2))).tolist() == [math.inf] * 3
        return
    at = torch.from_numpy(toy.minimizers)
    torch.testing.assert_close(
        toy.loss(at), torch.full((len(at),), toy.lowest, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert gradient(toy, at).abs().max() < 1e-10
    assert (toy.loss(inside(toy, 5000)) >= toy.lowest).all()
    assert toy.distances(toy.minimizers).max() == 0
    for point in toy.minimizers[:: max(1, len(toy.minimizers) // 5)]:
        assert torch.linalg.eigvalsh(toy.hessian(tuple(point)))[0] > -1e-10


@pytest.mark.parametrize("name", [name for name in SURFACES if TOYS.build(name).saddles])
def test_saddles_curve_up_and_down(name):
    toy = TOYS.build(name)
    for saddle in toy.saddles:
        assert gradient(toy, saddle).abs().max() < 1e-12
        low, high = torch.linalg.eigvalsh(toy.hessian(saddle))
        assert low < -0.1 and high > 0.1


def test_the_tanh_toy_is_that_of_the_lecture():
    toy = TOYS.build("tanh")
    assert toy.loss(torch.zeros(2)).item() == 0.25
    assert toy.hessian((0.0, 0.0)).flatten().tolist() == pytest.approx([0, -0.5, -0.5, 0])
    assert gradient(toy, [20.0, 20.0]).norm() < 1e-6  # a plateau
    second = np.linspace(0.06, 19, 977)  # between the sampled minima
    between = np.column_stack([math.atanh(0.5) / np.tanh(second / 2), second])
    assert toy.distances(np.concatenate([between, -between])).max() < 0.005


def test_an_inflection_is_flat_and_no_minimum():
    toy = TOYS.build("inflection")
    assert gradient(toy, [0.0, 0.0]).tolist() == [0, 0]
    assert torch.linalg.eigvalsh(toy.hessian((0.0, 0.0))).tolist() == [0, 1]
    assert toy.loss(torch.tensor([-0.1, 0.0])) < 0 < toy.loss(torch.tensor([0.1, 0.0]))


def test_a_bowl_has_the_condition_that_was_asked_for():
    for condition in (1.0, 7.0, 1e4):
        low, high = torch.linalg.eigvalsh(TOYS.build(f"bowl:condition={condition}").hessian((0.3, 0.1)))
        assert (high / low).item() == pytest.approx(condition, rel=1e-9)
    with pytest.raises(ValueError, match="needs a finite condition of at least 1, got 0.5"):
        TOYS.build("bowl:condition=0.5")


def test_distance_from_a_saddle_counts_only_along_the_way_down():
    toy = TOYS.build("saddle")
    found = toy.escape_distances(np.array([[5.0, 0.25], [0.0, -2.0], [math.nan, 0.0]]))
    assert found[:2].tolist() == [0.25, 2.0] and math.isnan(found[2])


# --- paths --------------------------------------------------------------------------------------------------


def known_loss(w: torch.Tensor) -> torch.Tensor:
    """That of test_optimizers, whose sequences are written out in NumPy."""
    return torch.einsum("...i,ij,...j->...", w, torch.from_numpy(A), w) / 2 + (w**4).sum(-1) / 40


KNOWN = Toy(known_loss, (1.0, -2.0), (-3, 3, -3, 3), np.zeros((1, 2)), 0.0)


@pytest.mark.parametrize("text", RULES)
def test_paths_are_those_of_the_rules(text):
    path = follow(KNOWN, text, np.array([KNOWN.start]), 0.1, 12)[1:, 0]
    np.testing.assert_allclose(path, by_hand(RULES[text], rates=[0.1] * 12), rtol=0, atol=tolerance(text))


@pytest.mark.parametrize("text", [*OPTIMIZERS, "nesterov:form=three-sequence,growing=true", "nesterov:form=lookahead"])
def test_of_many_starts_each_goes_as_it_would_alone(text):
    starts = np.array([[1.0, -2.0], [0.3, 0.1], [-1.0, 1e-3]])
    together = follow(KNOWN, text, starts, 0.1, 10)
    for k, start in enumerate(starts):
        alone = follow(KNOWN, text, start[None], 0.1, 10)[:, 0]
        np.testing.assert_allclose(together[:, k], alone, rtol=0, atol=tolerance(text))
    assert abs(together[-1, 0] - together[-1, 1]).max() > 1e-3


def test_noise_is_added_to_the_gradient_and_is_the_same_for_all():
    start, lr, sigma = np.array([[1.0, -2.0]]), 0.1, 0.5
    path = follow(KNOWN, "sgd", start, lr, 3000, noise=sigma, seed=3)[:, 0]
    xi = ((path[:-1] - path[1:]) / lr - gradient(KNOWN, path[:-1]).numpy()) / sigma
    assert abs(xi.mean()) < 4 / math.sqrt(xi.size) and abs(xi.std() - 1) < 4 / math.sqrt(2 * xi.size)
    again = follow(KNOWN, "sgd", start, lr, 100, noise=sigma, seed=3)[:, 0]
    assert not np.array_equal(again, follow(KNOWN, "sgd", start, lr, 100, noise=sigma, seed=4)[:, 0])
    assert np.array_equal(again, follow(KNOWN, "sgd", start, lr, 100, noise=sigma, seed=3)[:, 0])


def test_every_start_has_noise_of_its_own_and_newton_the_same():
    starts, lr, sigma = np.array([[1.0, -2.0], [0.5, 0.5]]), 0.1, 0.5
    first_step = follow(KNOWN, "sgd", starts, lr, 1, noise=sigma)
    noisy = (first_step[0] - first_step[1]) / lr
    assert abs((noisy - gradient(KNOWN, starts).numpy())[0] - (noisy - gradient(KNOWN, starts).numpy())[1]).max() > 0.01
    found = follow(KNOWN, "newton", starts, 1.0, 1, noise=sigma)[1]
    for start, slope, end in zip(starts, noisy, found, strict=True):
        step = np.linalg.solve(KNOWN.hessian(tuple(start)).numpy(), slope)
        np.testing.assert_allclose(end, start - step, rtol=0, atol=1e-9)  # the slope is known up to 1e-16 / lr


def test_newton_rests_where_it_arrives():
    path = follow(KNOWN, "newton", np.array([KNOWN.start]), 1.0, 60)[:, 0]
    assert np.isfinite(path).all() and abs(path[-1]).max() < 1e-12
    noisy = follow(KNOWN, "newton", np.zeros((1, 2)), 1.0, 60, noise=0.1)[:, 0]
    assert len(np.unique(noisy[:, 0])) == 61  # noise lets it not rest


def test_paths_end_outside_the_arena_and_others_go_on():
    bowl = TOYS.build("bowl:condition=1")
    paths = follow(bowl, "sgd", np.array([[1.0, 0.0], [0.0, 0.0]]), 3.0, 50)  # |w| doubles at each step
    assert abs(paths[9, 0]).max() == 512 and np.isnan(paths[10:, 0]).all()  # 400 is 100 widths away
    assert (paths[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: follow(KNOWN, "sgd", np.zeros((1, 2)), 0.1, 0), "needs at least 1 step, got 0"),
        (lambda: follow(KNOWN, "sgd", np.full((1, 2), np.nan), 0.1, 1), "a start must be finite"),
        (lambda: follow(KNOWN, "sgd", np.zeros((1, 2)), 0.1, 1, noise=-1), "noise must be at least 0 and finite"),
        (lambda: follow(KNOWN, "sdg", np.zeros((1, 2)), 0.1, 1), "unknown optimizer 'sdg'; did you mean 'sgd'"),
        (lambda: read_racers("sgd,adam@fast"), "expected a learning rate after '@' in 'adam@fast'"),
        (lambda: read_racers("sgd,sgd"), "expected different optimizers, got 'sgd' twice"),
        (lambda: read_racers("sgd,adam@-1"), "'adam' needs lr >= 0, got -1.0"),
        (lambda: race("saddel"), "unknown toy 'saddel'; did you mean 'saddle'"),
        (lambda: race("reddi-online"), "is an online problem, whose loss changes at every step"),
        (lambda: race("saddle", tolerance=0), "tolerance must be above 0 and finite, got 0"),
        (lambda: sweep("saddle", "sgd", [0.1]), r"two or more different learning rates, got \[0.1\]"),
        (lambda: sweep("saddle", "sgd", [0.1, 0.1]), "two or more different learning rates"),
        (lambda: basins("tanh", starts=0), "at least 1 start and a spread above 0, got 0"),
        (lambda: online("saddle"), "is a surface, not an online problem"),
        (lambda: online("reddi-online", ["sgd"]), "race forms of adam, got 'sgd'"),
        (lambda: online("reddi-online", ["adam", "adam"]), "expected different forms of adam"),
        (lambda: online("reddi-online", lr=0.0), "at least 1 step and lr above 0"),
        (lambda: TOYS.build("reddi-mod3:big=2"), "needs a finite big above 2, got 2.0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_racers_are_read():
    assert read_racers("momentum:form=ema@0.5,rmsprop:momentum=0.5,alpha=0.9,adam") == [
        Racer("momentum:form=ema", 0.5),
        Racer("rmsprop:momentum=0.5,alpha=0.9"),
        Racer("adam"),
    ]
    usual, own = Racer("adam"), Racer("adam", 0.5)
    assert (usual.rate(None), usual.rate(0.1), own.rate(0.1)) == (0.001, 0.1, 0.5)
    assert (usual.label, own.label) == ("adam", "adam@0.5")
    exact = Racer("adam", 0.123456789)
    assert read_racers(exact.label) == [exact]


# --- races --------------------------------------------------------------------------------------------------


def test_adaptive_methods_leave_the_saddle_first_and_plain_descent_last():
    """The groups of Radford's race at a rate of 0.01; Adagrad is the slowest of all there."""
    answer = race("saddle", lr=0.01, steps=1500)
    found = dict(zip(answer["optimizer"].values.tolist(), answer["escape_step"].values.tolist(), strict=True))
    assert found == {
        "sgd": 698,  # the first k with 1e-6 1.02^k > 1
        "momentum": 140,
        "nesterov": 132,
        "adagrad": 1263,
        "adadelta@1": 37,
        "rmsprop:alpha=0.9": 72,
        "adam": 77,
    }
    assert math.ceil(math.log(1e6) / math.log(1.02)) == 698
    assert not answer["diverged"].any() and not answer["reached"].any()


def test_what_a_race_answers():
    answer = race("bowl:condition=1,angle=0", "sgd,sgd@3,sgd@0.01", 0.5, 20, (0.8, 0.0), tolerance=0.05)
    np.testing.assert_allclose(answer["path"][0, :, 0], 0.8 * 0.5 ** np.arange(21), rtol=1e-12)
    np.testing.assert_allclose(answer["loss"][0], (0.8 * 0.5 ** np.arange(21)) ** 2 / 2, rtol=1e-12)
    np.testing.assert_allclose(answer["gradient_norm"][0], 0.8 * 0.5 ** np.arange(21), rtol=1e-12)
    assert answer["goal_step"].values[0] == 5  # 0.8 / 2^4 is 0.05 itself
    assert answer["reached"].values.tolist() == [True, False, False]
    assert answer["diverged"].values.tolist() == [False, True, False]
    assert answer["lr"].values.tolist() == [0.5, 3.0, 0.01]
    assert np.isnan(answer["escape_step"]).all()  # a bowl has no saddle
    assert np.isnan(answer["path"].values[1, -1]).all() and np.isfinite(answer["final_loss"]).all()


def test_who_begins_away_from_a_saddle_cannot_escape_it():
    answer = race("local-minimum", "sgd", 0.1, 50)
    assert np.isnan(answer["escape_step"].item()) and not answer.attrs["begins_at_saddle"]
    assert not answer["reached"].item()  # it ends in the worse valley


def test_first():
    holds = np.array([[False, True, False], [False, False, False], [True, True, True]])
    np.testing.assert_array_equal(first(holds), [1, np.nan, 0])


def test_a_sweep_is_several_races():
    answer = sweep("tanh", "sgd,adam@0.5", [0.1, 0.01], 200)
    assert answer["lr"].values.tolist() == [0.01, 0.1] and answer["optimizer"].values.tolist() == ["sgd", "adam"]
    for rate in (0.01, 0.1):
        one = race("tanh", "sgd,adam", rate, 200)
        np.testing.assert_array_equal(answer["goal_step"].sel(lr=rate), one["goal_step"])
        np.testing.assert_array_equal(answer["final_loss"].sel(lr=rate), one["final_loss"])


def test_a_sweep_that_was_interrupted_goes_on(tmp_path):
    asked = ("tanh", "sgd,adam", [0.1, 0.01, 0.03], 50)
    whole, seen = sweep(*asked), []

    def stop(stage, done, total):
        seen.append((done, total))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with Journal(tmp_path / "sweep.journal") as journal:
        with pytest.raises(KeyboardInterrupt):
            sweep(*asked, journal=journal, progress=stop)
        assert sorted(journal.records()) == ["0.01", "0.03"]
        before = journal.records()["0.01"]["final_loss"] * 0 + 7
        journal.append("0.01", {**journal.records()["0.01"], "final_loss": before})
        resumed = sweep(*asked, journal=journal, progress=stop)
    assert (resumed["final_loss"].sel(lr=0.01) == 7).all()  # what is finished is not raced again
    xr.testing.assert_identical(resumed.drop_vars("final_loss"), whole.drop_vars("final_loss"))
    assert seen == [(1, 3), (2, 3), (2, 3), (2, 3), (3, 3)]


def test_the_order_of_a_race_depends_on_the_rate():
    steps = sweep("saddle", "sgd,adagrad", [0.01, 0.3], 1500)["escape_step"]
    assert steps.sel(optimizer="sgd", lr=0.01) < steps.sel(optimizer="adagrad", lr=0.01)
    assert steps.sel(optimizer="sgd", lr=0.3) > steps.sel(optimizer="adagrad", lr=0.3)


def shares(starts: int) -> dict[str, dict[str, float]]:
    answer = basins("tanh", starts=starts)
    return {
        str(name): dict(zip(answer["outcome"].values.tolist(), row.tolist(), strict=True))
        for name, row in zip(answer["optimizer"].values, answer["share"].values, strict=True)
    }


def hold(found: dict[str, dict[str, float]]) -> None:
    """Newton's method goes to the saddle, gradient descent and saddle-free Newton to the ravines."""
    assert found["newton@1"]["saddle"] >= 0.9
    assert found["gd@0.5"]["minimum"] >= 0.99
    assert found["saddle-free-newton@1"]["minimum"] >= 0.9
    assert found["saddle-free-newton@1"]["saddle"] == 0


def test_newton_is_drawn_to_saddles():
    hold(shares(60))


@pytest.mark.slow
def test_newton_is_drawn_to_saddles_from_400_starts():
    hold(shares(400))


def test_what_many_starts_answer():
    answer = basins("tanh", "gd@0.5,gd@1e-9", steps=50, starts=30, spread=0.1)
    counts = answer["count"].values
    assert counts.sum(1).tolist() == [30, 30] and counts[1].tolist() == [0, 0, 30]  # it does not move
    np.testing.assert_allclose(answer["end"].values[1], answer["begin"].values, rtol=0, atol=1e-8)
    assert 0.05 < answer["begin"].values.std() < 0.15
    np.testing.assert_array_equal(answer["share"], counts / 30)


def test_wilsons_interval():
    """The shares p with |k/n - p| <= z sqrt(p (1 - p) / n)."""
    z = norm.ppf(0.975)
    for successes, trials in ((0, 10), (3, 10), (390, 400), (400, 400)):
        for end in wilson(successes, trials):
            share = successes / trials
            assert (share - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / trials, abs=1e-9)


# --- the counter-examples to Adam ----------------------------------------------------------------------------


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("name", ["reddi-online", "reddi-mod3", "reddi-stochastic"])
def test_adam_in_plain_numbers_is_the_optimizer(name, bias_correction, amsgrad):
    problem = TOYS.build(name)
    slopes, lr = problem.slopes(400, 0), problem.lr
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    options = {"betas": problem.betas, "bias_correction": bias_correction, "amsgrad": amsgrad, "eps": 1e-8}
    optimizer = build_optimizer("adam", [x], lr, **options)
    path = [0.0]
    for t, slope in enumerate(slopes, 1):
        optimizer.param_groups[0]["lr"] = lr / math.sqrt(t)
        x.grad = torch.tensor([slope], dtype=torch.float64)
        optimizer.step()
        with torch.no_grad():
            x.clamp_(-1, 1)
        path.append(x.item())
    ours = adam_path(slopes, lr, **options)
    np.testing.assert_allclose(ours, path, rtol=0, atol=EXACT)
    assert len(set(path)) > 100


@pytest.mark.parametrize("name", ["reddi-online", "reddi-mod3"])
def test_adam_goes_to_the_worst_point_and_amsgrad_to_the_best(name):
    answer = online(name)
    assert answer["final_x"].values[0] >= 0.9 and answer["final_x"].values[1] <= -0.9
    assert answer["verdict"].values.tolist() == ["at the worst point", "at the best point"]
    assert answer["regret"].values[0, -1] > 2 * answer["regret"].values[1, -1]


def test_a_longer_memory_saves_adam():
    """Negative control: with beta2 = 0.999 it goes to the best point of the same losses."""
    slopes = TOYS.build("reddi-mod3").slopes(20_000, 0)
    assert adam_path(slopes, 0.1, (0.0, 0.999), 1e-8, True, False)[-1] <= -0.9


@pytest.mark.parametrize("name", ["reddi-online", "reddi-mod3", "reddi-mod3:big=10", "reddi-stochastic"])
def test_the_best_point_is_minus_one(name):
    problem = TOYS.build(name)
    slopes = problem.slopes(101 * 3 * 1000, 0)
    assert (
        abs(slopes.mean() - problem.mean_slope) < 5 * (slopes.std() / math.sqrt(len(slopes))) and problem.mean_slope > 0
    )


# --- rates on quadratics ------------------------------------------------------------------------------------


def test_heavy_ball_has_its_rate():
    """The error falls by (sqrt(k) - 1) / (sqrt(k) + 1) a step at the best settings, plain descent's by (k - 1)/(k + 1).

    The double root adds a factor k to its power, so the rate is felt late.
    """
    kappa, steps = 100.0, 600
    bowl, start = TOYS.build(f"bowl:condition={kappa:g}"), np.array([[1.0, 1.0]])
    root = math.sqrt(kappa)
    best = (root - 1) / (root + 1)
    text = f"momentum:momentum={best**2!r},form=heavy-ball"
    rates = {}
    for name, lr in ((text, (2 / (1 + 1 / root)) ** 2), ("sgd", 2 / (1 + 1 / kappa))):
        distance = np.linalg.norm(follow(bowl, name, start, lr, steps)[:, 0], axis=1)
        k = np.arange(100, 165 if name == text else steps)  # before rounding
        rates[name] = math.exp(np.polyfit(k, np.log(distance[k]), 1)[0])
    assert abs(rates[text] - best) < 0.01 and best == pytest.approx(0.8182, abs=1e-4)
    assert rates["sgd"] == pytest.approx((kappa - 1) / (kappa + 1), abs=1e-6)


# --- random Hessians ----------------------------------------------------------------------------------------


def test_random_hessians_are_definite_less_often_than_coins_say():
    """Of size 2 the share is (2 - sqrt 2) / 4, of size 3 it is (pi - 2 sqrt 2) / (4 pi)."""
    for size, share in ((1, 0.5), (2, (2 - math.sqrt(2)) / 4), (3, (math.pi - 2 * math.sqrt(2)) / (4 * math.pi))):
        found = definite_share(size)
        error = math.sqrt(share * (1 - share) / 100_000)
        assert abs(found.share - share) < 4 * error and found.low < found.share < found.high
        assert found.independent == 0.5**size and (found.high < found.independent or size == 1)
    with pytest.raises(ValueError, match="a size and a number of samples of at least 1, got 0"):
        definite_share(0)


# --- the question -------------------------------------------------------------------------------------------


def test_equal_questions_have_one_name():
    one = Race(toy="bowl:100", lr=(0.01,), optimizers="sgd,adam:amsgrad=false")
    other = Race(toy="bowl", lr=(0.01,), optimizers="sgd,adam", steps=2000)
    assert one == other and one.name == other.name and one.name.startswith("race-")
    assert Race().optimizers == RACERS and Race(seed=1).name != Race().name
    kinds = [Race(toy="tanh", starts=5), Race(sweep=True), Race(toy="reddi-mod3")]
    assert [question.kind for question in kinds] == ["race-basins", "race-sweep", "race-online"]


def test_rows_of_every_kind():
    (row,) = rows(Race(toy="saddle", optimizers="sgd", steps=5, lr=(0.1,)).answer())
    assert row["escape step"] == "never" and row["steps to the minimum"] == "" and row["diverged"] == "no"
    (row,) = rows(Race(toy="plateau", optimizers="sgd", steps=400, lr=(0.1,)).answer())
    assert row["escape step"] == "" and 200 < row["steps to the minimum"] < 300
    (row,) = rows(Race(toy="bowl:1", optimizers="sgd", steps=50, lr=(3.0, 1.0, 1e-9), sweep=True).answer())
    assert row == {"optimizer": "sgd", "lr 1e-09": "never", "lr 1": 1, "lr 3": "diverged"}
    (row,) = rows(Race(toy="tanh", optimizers="gd", lr=(0.5,), starts=20).answer())
    assert (row["minimum"], row["95% of minimum"]) == ("100.0%", "83.9% to 100.0%")
    first_row, _ = rows(Race(toy="reddi-mod3").answer())
    assert first_row["x at the end"] == 1.0 and first_row["verdict"] == "at the worst point"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": (0.1, 0.2)}, "expected one learning rate, got 2; --sweep races with each of them"),
        ({"toy": "reddi-online", "noise": 1.0}, "a race-online of toy 'reddi-online' takes no noise; leave it out"),
        ({"toy": "reddi-online", "sweep": True, "starts": 3}, "takes no starts, sweep"),
        ({"toy": "reddi-online", "optimizers": "sgd"}, "race forms of adam, got 'sgd'"),
        ({"toy": "tanh", "starts": 5, "start": (1.0, 1.0)}, "a race-basins of toy 'tanh' takes no start"),
        ({"sweep": True, "starts": 3}, "a race-sweep of toy 'saddle' takes no starts"),
        ({"toy": "sadle"}, "unknown toy 'sadle'; did you mean 'saddle'"),
        ({"optimizers": "adm"}, "unknown optimizer 'adm'"),
    ],
)
def test_fields_that_do_not_go_together(fields, message):
    with pytest.raises(ValueError, match=message):
        Race(**fields)
