"""The probe that joins two points, against ways that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from landscape.execution import SerialExecutor, Work, working
from landscape.measure import ask
from landscape.objective import Objective
from landscape.paths import Connection, Curve, CurvePlane
from landscape.paths.tables import connection_remarks, connection_rows
from landscape.store import Store
from tests.paths.toys import curved_valley, terrain, two_wells
from tests.problems import InterruptedJournal, TinyCNN, built, images, perceptron, vectors

RIGHT = torch.tensor([1.0, 0.0], dtype=torch.float64)


def connected(other: Tensor = RIGHT, height=curved_valley, **options) -> xr.Dataset:
    return Connection(other, **{"steps": 300, "lr": 0.1, "control": False, **options})(terrain(height))


@pytest.fixture(scope="module")
def valley() -> xr.Dataset:
    return connected(curve="bezier")


def test_a_bezier_curve_finds_the_valley_that_one_bend_can_follow(valley: xr.Dataset):
    np.testing.assert_allclose(valley["control_point"].values, [[-1, 0], [0, 2], [1, 0]], atol=0.02)
    curve, line = (valley["loss"].sel(path=path).values for path in ("curve", "line"))
    assert curve.max() < 1e-3
    t = valley["t"].values
    np.testing.assert_allclose(line, ((2 * t - 1) ** 2 - 1) ** 2, atol=1e-12)  # rises to 1 in the middle
    assert line.max() == 1 and line[0] == curve[0] == 0 == line[-1] == curve[-1]
    assert valley["length"].values == pytest.approx([2.95789, 2], abs=0.03)
    assert valley["arc_length"].values[:, 0].tolist() == [0, 0]
    assert (np.diff(valley["arc_length"].values) > 0).all() and valley.sizes["t"] == 61


def test_a_chain_ends_at_the_bends_of_least_mean_loss():
    """The mean over t of one bend at (0, y), by quadrature; the best y is where that is least."""
    answer = connected(curve="polychain", steps=1000, momentum=0.0)
    t = (np.arange(20000) + 0.5) / 20000
    x, rise = 2 * t - 1, np.minimum(2 * t, 2 - 2 * t)
    heights = np.linspace(0.5, 1.5, 201)
    means = [((y * rise - 1 + x**2) ** 2).mean() for y in heights]
    assert answer["control_point"].values[1] == pytest.approx([0, heights[np.argmin(means)]], abs=0.03)


def test_the_best_curve_in_a_flat_valley_is_the_line():
    answer = connected(height=lambda w: w[..., 1] ** 2, curve="bezier", bends=3)
    assert answer["loss"].values.max() == 0
    curve = Curve.of(answer)
    assert not curve.spans_plane and answer["length"].values == pytest.approx([2, 2])
    with pytest.raises(ValueError, match="the curve is straight, or not finite, and spans no plane; measure a Slice"):
        CurvePlane(curve)(terrain(lambda w: w[..., 1] ** 2))


def test_a_bowl_pulls_the_curve_to_its_axis():
    """With weight decay the loss of every point gains w^2 / 2 times its strength: the ends stay, the bends move."""
    far = torch.tensor([1.0, 1.0], dtype=torch.float64)
    objective = terrain(lambda w: 0 * w.sum(-1), (-1.0, 1.0))
    answer = Connection(far, steps=1000, lr=0.1, momentum=0.0, weight_decay=1.0, control=False)(objective)
    # the mean of y(t)^2 over a chain from 1 over y to 1 is (1 + y + y^2) / 3, least at y = -1/2
    assert answer["control_point"].values[1] == pytest.approx([0, -0.5], abs=0.1)
    assert answer["loss"].values.max() == 0  # the loss that is measured is that of the data alone


def test_a_band_goes_over_the_saddle():
    answer = connected(height=two_wells, curve="neb", bends=5, lr=0.03, steps=400, points=101)
    curve, line = (answer["loss"].sel(path=path).values for path in ("curve", "line"))
    assert curve.max() == pytest.approx(1, abs=0.03) and line.max() == pytest.approx(3, abs=1e-3)
    assert answer.attrs["curve"] == "polychain" and answer.sizes["control"] >= 7
    np.testing.assert_allclose(answer["arc_length"].sel(path="curve") / answer["length"].sel(path="curve"),
                               answer["t"], atol=0.02)  # fmt: skip


def test_ends_trained_alone_are_the_control():
    """Both ends lie above the valley; alone they fall into it, as the middle of the curve does."""

    def height(w: Tensor) -> Tensor:
        return w[..., 1] ** 2

    far = torch.tensor([1.0, 1.0], dtype=torch.float64)
    objective = terrain(height, (-1.0, 1.0))
    answer = Connection(far, curve="bezier", steps=100, lr=0.1, momentum=0.0)(objective)
    shrunk = np.prod([1 - 2 * 0.1 * np.clip(1 - 0.99 * (s / 100 - 0.5) / 0.4, 0.01, 1) for s in range(100)])
    assert answer["tuned_loss"].values == pytest.approx([shrunk**2] * 2, rel=1e-9)
    assert answer["tuned_distance"].values == pytest.approx([1 - shrunk] * 2)
    remarks = connection_remarks(answer)
    assert "below both ends (1 and more)" in remarks[1] and "ends trained alone for as many steps" in remarks[2]
    assert "test error" not in remarks[2]
    without = connection_remarks(Connection(far, curve="bezier", steps=1, control=False)(objective))
    assert not any("alone" in remark for remark in without)


def trained(factory, data, seed: int) -> nn.Module:
    """A network after a few steps of full-batch descent from an initialization of its own."""
    model = built(factory, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module]:
    return trained(TinyCNN, images(), 0), trained(TinyCNN, images(), 1)


def joined(networks: tuple[nn.Module, nn.Module], normalization: str = "recalibrated") -> xr.Dataset:
    near, far = networks
    objective = Objective(near, images(), loss=F.cross_entropy, normalization=normalization)
    return Connection(objective.layout.current(far), curve="bezier", steps=30, batch_size=8, points=5)(objective)


def test_batchnorm_is_recalibrated_at_every_place(networks: tuple[nn.Module, nn.Module]):
    """The reference runs the network in training mode over the whole data; stale statistics miss it by far."""
    answer, stale = joined(networks), joined(networks, "running")
    curve, (inputs, targets) = Curve.of(answer), images()
    assert torch.equal(curve.points, Curve.of(stale).points)  # trained by the statistics of the batch in both
    network = built(TinyCNN).train()
    for place, t in enumerate(answer["t"].values):
        network.load_state_dict(curve.tensors(float(t)), strict=False)
        with torch.no_grad():
            expected = F.cross_entropy(network(inputs), targets).item()
        # the running variance has Bessel's correction, the batch's has not: 23 images of 36 pixels
        assert answer["loss"].sel(path="curve").values[place] == pytest.approx(expected, rel=5e-3)
    gaps = abs(answer["loss"] - stale["loss"]).sel(path="curve").values
    assert gaps[1:].max() > 0.05


@pytest.mark.parametrize("curve", ["bezier", "neb"])
def test_interrupted_and_resumed_is_uninterrupted(networks: tuple[nn.Module, nn.Module], curve: str):
    near, far = networks
    before = {name: tensor.clone() for name, tensor in near.state_dict().items()}

    def answer(journal: InterruptedJournal) -> xr.Dataset:
        objective = Objective(near, images(), loss=F.cross_entropy, normalization="recalibrated")
        probe = Connection(
            objective.layout.current(far), curve=curve, bends=2, steps=12, batch_size=8, cycles=2, points=4
        )
        with working(Work(SerialExecutor(), journal)):
            return probe(objective)

    whole = InterruptedJournal()
    expected = answer(whole)
    for most in (1, 13, len(whole.pieces) - 9, len(whole.pieces) - 1):
        journal = InterruptedJournal(most=most)
        with pytest.raises(KeyboardInterrupt):
            answer(journal)
        xr.testing.assert_identical(answer(InterruptedJournal(journal.pieces)), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in near.state_dict().items())


def test_seeds_and_fields_make_other_questions_and_the_store_keeps_the_answer(tmp_path: Path):
    objective = terrain(curved_valley)
    store = Store(tmp_path)
    answer = ask(Connection(RIGHT, steps=20, points=3), objective, store)
    again = ask(Connection(RIGHT, steps=20, points=3, lr=0.05, bends=1), objective, store)
    xr.testing.assert_identical(again, answer)
    (name,) = store.names("connection-*")
    assert torch.equal(Curve.load(tmp_path / f"{name}.h5").points, Curve.of(answer).points)
    other = ask(Connection(RIGHT, steps=20, points=3, seed=1), objective, store)
    assert len(store.names()) == 2 and not np.array_equal(other["step_loss"], answer["step_loss"])


def test_rows_tell_ends_extremes_and_mean(valley: xr.Dataset):
    curve, line = connection_rows(valley)
    assert (line["path"], line["of"], line["first"], line["max"]) == ("line", "loss", 0, 1)
    assert line["frankle"] == line["linear"] == line["above-higher"] == line["above-lower"] == 1
    assert line["mean"] == pytest.approx(8 / 15, abs=1e-3)  # of (x^2 - 1)^2 over -1..1
    assert curve["max"] < 1e-3 and connection_remarks(valley)[0].startswith("length 2.9")


def test_errors_are_one_minus_the_accuracy():
    data = vectors()
    near, far = (trained(perceptron, data, seed) for seed in (0, 1))
    objective = Objective(near, data, loss=F.cross_entropy, also={"test": data})
    answer = Connection(objective.layout.current(far), steps=10, points=5)(objective)
    rows = {(row["path"], row["of"]): row for row in connection_rows(answer)}
    assert set(rows) == {(p, m) for p in ("curve", "line") for m in ("loss", "error", "test_loss", "test_error")}
    assert rows["line", "error"]["first"] == pytest.approx(1 - objective.metrics()["accuracy"])
    assert "test error" in connection_remarks(answer)[-1]


def test_the_plane_of_a_curve_holds_it(valley: xr.Dataset):
    objective, curve = terrain(curved_valley), Curve.of(valley)
    plane = CurvePlane(curve, resolution=5)(objective)
    assert plane["control_alpha"].values[[0, -1]].tolist() == [0, 1] and abs(plane["control_beta"].values[-1]) < 1e-12
    assert float(plane["curve_off_plane"].max()) < 1e-9
    # the axes are (2, 0) and (0, 2): the bend at (0, 2) has coordinates (1/2, 1)
    assert [float(plane[f"control_{axis}"][1]) for axis in ("alpha", "beta")] == pytest.approx([0.5, 1], abs=0.01)
    for axis in ("alpha", "beta"):
        low, high = (plane[f"{name}_{axis}"] for name in ("control", "curve"))
        assert plane[axis].min() < min(low.min(), high.min()) and plane[axis].max() > max(low.max(), high.max())
    x, y = 2 * plane["alpha"] - 1, 2 * plane["beta"]
    xr.testing.assert_allclose(plane["loss"].drop_attrs(), ((x**2 + y - 1) ** 2).drop_attrs(), atol=1e-6)


def test_a_plane_of_another_run_or_too_coarse_is_refused(valley: xr.Dataset):
    with pytest.raises(ValueError, match="begins at another point than this objective's"):
        CurvePlane(Curve.of(valley))(terrain(curved_valley, (0.5, 0.0)))
    with pytest.raises(ValueError, match="resolution must be at least 2, got 1"):
        CurvePlane(Curve.of(valley), resolution=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curve": "spline"}, "curve must be one of polychain, bezier, neb, got 'spline'"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of sgd, adam, got 'lbfgs'"),
        ({"bends": 0}, "bends must be at least 1, got 0"),
        ({"points": 2}, "points must be at least 3, got 2"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be above 0 and momentum at least 0 and below 1, got 0.0 and 0.9"),
        ({"momentum": 1.0}, "momentum at least 0 and below 1, got 0.05 and 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got -1.0"),
        ({"curve": "neb", "steps": 3, "cycles": 4}, "4 cycles need as many steps, got 3"),
    ],
)
def test_fields_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Connection(RIGHT, **options)


@pytest.mark.parametrize("curve", ["polychain", "neb"])
def test_a_curve_whose_training_diverged_says_so(curve: str):
    answer = connected(curve=curve, bends=2, lr=1e6, steps=40, points=5)
    assert np.isnan(answer["loss"].sel(path="curve").values[1:-1]).all() and np.isfinite(answer["loss"].values[1]).all()
    assert np.isnan(answer["barrier"].sel(path="curve")).all() and not Curve.of(answer).spans_plane
    assert (
        "the loss is not finite at 3 of 5 places of the curve: its training diverged" in connection_remarks(answer)[0]
    )


def test_ends_that_do_not_fit_are_refused():
    objective = terrain(curved_valley)
    with pytest.raises(ValueError, match=r"the other end has shape \(3,\), this one \(2,\); join points of equal"):
        Connection(torch.zeros(3))(objective)
    for other in (objective.theta, torch.tensor([float("nan"), 0.0])):
        with pytest.raises(ValueError, match="must be finite and another point than this one"):
            Connection(other)(objective)
