"""Update rules against sequences written out in NumPy, their equivalences, and their edges of stability."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from models.optimizers import OPTIMIZERS, Lion, NesterovLookAhead, Newton, build_optimizer
from models.registry import Registry

A = np.array([[3.0, 1.0], [1.0, 0.5]])
START = np.array([1.0, -2.0])
EXACT = 1e-12  # the same arithmetic in float64, in another order, over 12 steps of size below 1
RATES = [0.1] * 6 + [0.01] * 6  # the rate drops, since the forms of momentum differ in what that does


def gradient(theta: np.ndarray) -> np.ndarray:
    """Of theta A theta / 2 + sum theta^4 / 40."""
    return A @ theta + theta**3 / 10


def loss_of(theta: torch.Tensor) -> torch.Tensor:
    return theta @ torch.from_numpy(A).to(theta) @ theta / 2 + (theta**4).sum() / 40


def run(text: str, weight_decay: float = 0.0, rates=RATES, loss=loss_of, start=START, **options) -> np.ndarray:
    """(T, 2) the parameters after each step."""
    theta = nn.Parameter(torch.from_numpy(np.array(start)))
    optimizer = build_optimizer(text, [theta], rates[0], weight_decay, **options)
    path = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate

        def closure():
            optimizer.zero_grad()
            value = loss(theta)
            value.backward()
            return value

        if isinstance(optimizer, Newton):
            optimizer.step(lambda: loss(theta))
        else:
            optimizer.step(closure)
        path.append(theta.detach().numpy().copy())
    return np.array(path)


def by_hand(rule, rates=RATES, g=gradient, start=START) -> np.ndarray:
    """(T, 2) by a generator that is sent the learning rate and yields the parameters."""
    walk = rule(start.copy(), g)
    next(walk)
    return np.array([walk.send(rate).copy() for rate in rates])


# --- the rules, as the literature writes them -----------------------------------------------------------------


def sgd(theta, g):
    lr = yield
    while True:
        theta = theta - lr * g(theta)
        lr = yield theta


def torch_momentum(theta, g, mu=0.9):
    v, lr = 0.0, (yield)
    while True:
        v = mu * v + g(theta)
        theta = theta - lr * v
        lr = yield theta


def sutskever(theta, g, mu=0.9):
    v, lr = 0.0, (yield)
    while True:
        v = mu * v + lr * g(theta)
        theta = theta - v
        lr = yield theta


def ema(theta, g, mu=0.9):
    v, lr = 0.0, (yield)
    while True:
        v = mu * v + (1 - mu) * g(theta)
        theta = theta - lr * v
        lr = yield theta


def heavy_ball(theta, g, beta=0.9):
    before, lr = theta, (yield)
    while True:
        theta, before = theta - lr * g(theta) + beta * (theta - before), theta
        lr = yield theta


def torch_nesterov(theta, g, mu=0.9):
    b, lr = 0.0, (yield)
    while True:
        here = g(theta)
        b = mu * b + here
        theta = theta - lr * (here + mu * b)
        lr = yield theta


def lookahead(theta, g, mu=0.9):
    v, lr = 0.0, (yield)
    while True:
        v = mu * v + lr * g(theta - mu * v)
        theta = theta - v
        lr = yield theta


def sequences(theta, g, mu=0.9):
    phi, lr = theta, (yield)
    while True:
        phi, before = theta - lr * g(theta), phi
        theta = phi + mu * (phi - before)
        lr = yield theta


def growing(theta, g):
    phi, t, lr = theta, 1.0, (yield)
    while True:
        later = (1 + math.sqrt(1 + 4 * t**2)) / 2
        phi, before = theta - lr * g(theta), phi
        theta, t = phi + (t - 1) / later * (phi - before), later
        lr = yield theta


def adagrad(theta, g, outside=1e-10, inside=0.0):
    s, lr = 0.0, (yield)
    while True:
        s = s + g(theta) ** 2
        theta = theta - lr * g(theta) / (np.sqrt(s + inside) + outside)
        lr = yield theta


def adadelta(theta, g, rho=0.9, eps=1e-6):
    v, u, lr = 0.0, 0.0, (yield)
    while True:
        v = rho * v + (1 - rho) * g(theta) ** 2
        delta = np.sqrt(u + eps) / np.sqrt(v + eps) * g(theta)
        u = rho * u + (1 - rho) * delta**2
        theta = theta - lr * delta
        lr = yield theta


def rmsprop(theta, g, alpha=0.99, outside=1e-8, inside=0.0, momentum=0.0, centered=False):
    v, mean, buffer, lr = 0.0, 0.0, 0.0, (yield)
    while True:
        v, mean = alpha * v + (1 - alpha) * g(theta) ** 2, alpha * mean + (1 - alpha) * g(theta)
        buffer = momentum * buffer + g(theta) / (np.sqrt(v - centered * mean**2 + inside) + outside)
        theta = theta - lr * buffer
        lr = yield theta


def adam(theta, g, betas=(0.9, 0.999), eps=1e-8, corrected=True, amsgrad=False, decay=0.0):
    m, v, largest, k, lr = 0.0, 0.0, 0.0, 0, (yield)
    while True:
        k += 1
        m, v = betas[0] * m + (1 - betas[0]) * g(theta), betas[1] * v + (1 - betas[1]) * g(theta) ** 2
        largest = np.maximum(largest, v) if amsgrad else v
        m_hat = m / (1 - betas[0] ** k) if corrected else m
        v_hat = largest / (1 - betas[1] ** k) if corrected else largest
        theta = (1 - lr * decay) * theta - lr * m_hat / (np.sqrt(v_hat) + eps)
        lr = yield theta


def nadam(theta, g, mu=lambda t: 0.9, one_more=False, beta=0.9, beta2=0.999, eps=1e-8):
    m, v, k, product, lr = 0.0, 0.0, 0, 1.0, (yield)
    while True:
        k += 1
        product *= mu(k)
        m, v = beta * m + (1 - beta) * g(theta), beta2 * v + (1 - beta2) * g(theta) ** 2
        bar = mu(k + 1) * m / (1 - product * (mu(k + 1) if one_more else 1)) + (1 - mu(k)) * g(theta) / (1 - product)
        theta = theta - lr * bar / (np.sqrt(v / (1 - beta2**k)) + eps)
        lr = yield theta


def radam(theta, g, betas=(0.9, 0.999), eps=1e-8):
    m, v, k, lr = 0.0, 0.0, 0, (yield)
    longest = 2 / (1 - betas[1]) - 1
    while True:
        k += 1
        m, v = betas[0] * m + (1 - betas[0]) * g(theta), betas[1] * v + (1 - betas[1]) * g(theta) ** 2
        m_hat = m / (1 - betas[0] ** k)
        length = longest - 2 * k * betas[1] ** k / (1 - betas[1] ** k)
        step = m_hat
        if length > 5:
            rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            step = m_hat * math.sqrt(rectified) * math.sqrt(1 - betas[1] ** k) / (np.sqrt(v) + eps)
        theta = theta - lr * step
        lr = yield theta


def lion(theta, g, decay=0.0):
    m, lr = 0.0, (yield)
    while True:
        here = g(theta)
        theta = theta - lr * (np.sign(0.9 * m + 0.1 * here) + decay * theta)
        m = 0.99 * m + 0.01 * here
        lr = yield theta


def newton(theta, g, damping=0.0, magnitude=lambda values: values):
    lr = yield
    while True:
        values, vectors = np.linalg.eigh(A + np.diag(3 * theta**2 / 10))
        curved = magnitude(values) + damping * abs(values).max()
        theta = theta - lr * vectors @ (vectors.T @ g(theta) / curved)
        lr = yield theta


def of(rule, **options):
    return lambda theta, g: rule(theta, g, **options)


def torchs_mu(t):
    return 0.9 * (1 - 0.5 * 0.96 ** (t * 0.004))


RULES = {
    "sgd": sgd,
    "sgd:momentum=0.8": of(torch_momentum, mu=0.8),
    "gd": sgd,
    "momentum": torch_momentum,
    "momentum:0.5": of(torch_momentum, mu=0.5),
    "momentum:form=sutskever": sutskever,
    "momentum:form=ema": ema,
    "momentum:form=heavy-ball": heavy_ball,
    "nesterov": torch_nesterov,
    "nesterov:form=lookahead": lookahead,
    "nesterov:form=three-sequence": sequences,
    "nesterov:form=three-sequence,growing=true": growing,
    "adagrad": adagrad,
    "adagrad:eps=0.1": of(adagrad, outside=0.1),
    "adagrad:eps=0.1,eps_inside=true": of(adagrad, outside=0.0, inside=0.1),
    "adadelta": adadelta,
    "adadelta:rho=0.5,eps=0.01": of(adadelta, rho=0.5, eps=0.01),
    "rmsprop": rmsprop,
    "rmsprop:eps=0.1": of(rmsprop, outside=0.1),
    "rmsprop:eps=0.1,eps_inside=true": of(rmsprop, outside=0.0, inside=0.1),
    "rmsprop:momentum=0.5,alpha=0.9,centered=true": of(rmsprop, momentum=0.5, alpha=0.9, centered=True),
    "rmsprop:momentum=0.5,alpha=0.9,eps=0.1,eps_inside=true,centered=true": of(
        rmsprop, momentum=0.5, alpha=0.9, outside=0.0, inside=0.1, centered=True
    ),
    "adam": adam,
    "adam:eps=0.1": of(adam, eps=0.1),
    "adam:bias_correction=false": of(adam, corrected=False),
    "adam:amsgrad=true": of(adam, amsgrad=True),
    "adam:bias_correction=false,amsgrad=true": of(adam, corrected=False, amsgrad=True),
    "adamw": adam,
    "adamw:amsgrad=true": of(adam, amsgrad=True),
    "nadam": of(nadam, mu=torchs_mu, one_more=True),
    "nadam:momentum_decay=1e9": of(nadam, one_more=True),  # Dozat's algorithm with a constant momentum
    "nadam:form=constant": nadam,
    "radam": radam,
    "lion": lion,
    "newton": newton,
    "newton:damping=0.5": of(newton, damping=0.5),
    "saddle-free-newton": of(newton, damping=0.05, magnitude=abs),
}


@pytest.mark.parametrize("text", RULES)
def test_sequence(text):
    np.testing.assert_allclose(run(text), by_hand(RULES[text]), rtol=0, atol=tolerance(text))


def tolerance(text: str) -> float:
    """Torch keeps the product of NAdam's momenta in float32, whose rounding is 6e-8."""
    return 1e-6 if text in ("nadam", "nadam:momentum_decay=1e9") else EXACT


def test_every_registered_optimizer_has_a_sequence():
    assert {text.partition(":")[0] for text in RULES} == set(OPTIMIZERS)


def test_other_betas():
    for text, rule in {"adam": adam, "adamw": adam, "radam": radam}.items():
        np.testing.assert_allclose(
            run(text, betas=(0.5, 0.7)), by_hand(of(rule, betas=(0.5, 0.7))), rtol=0, atol=EXACT, err_msg=text
        )
    changing = of(adam, betas=(0.5, 0.7), amsgrad=True)
    path = run("adam:amsgrad=true", betas=(0.5, 0.7))
    np.testing.assert_allclose(path, by_hand(changing), rtol=0, atol=EXACT)
    assert abs(path - run("adam", betas=(0.5, 0.7))).max() > 1e-3  # so that the maximum was at work


def test_a_different_form_is_a_different_sequence():
    """Negative control: of any two variants the parameters differ, unless they are the same rule."""
    same = {("sgd", "gd"), ("adam", "adamw"), ("adamw:amsgrad=true", "adam:amsgrad=true")}
    paths = {text: run(text) for text in RULES}
    for one in RULES:
        for other in RULES:
            is_twin = {(one, other), (other, one)} & same or {"sutskever", "heavy-ball"} == {
                text.rpartition("=")[2] for text in (one, other)
            }
            apart = abs(paths[one] - paths[other]).max()
            assert one == other or is_twin or apart > 1e-7 or "amsgrad" in one + other, (one, other)


# --- what is equal to what ------------------------------------------------------------------------------------


CONSTANT = [0.1] * 40


def test_forms_of_momentum_agree_at_a_constant_rate_and_part_when_it_drops():
    forms = {form: run(f"momentum:form={form}", rates=CONSTANT) for form in ("torch", "sutskever", "heavy-ball")}
    for path in forms.values():
        np.testing.assert_allclose(path, forms["torch"], rtol=0, atol=EXACT)
    dropped = {form: run(f"momentum:form={form}") for form in forms}
    np.testing.assert_allclose(dropped["sutskever"], dropped["heavy-ball"], rtol=0, atol=EXACT)
    assert abs(dropped["torch"] - dropped["sutskever"]).max() > 0.1


def test_averaged_momentum_is_torchs_at_a_smaller_rate():
    ours = run("momentum:form=ema", rates=CONSTANT)
    np.testing.assert_allclose(ours, run("momentum", rates=[0.1 * (1 - 0.9)] * 40), rtol=0, atol=EXACT)
    theta = nn.Parameter(torch.from_numpy(START.copy()))
    dampened = torch.optim.SGD([theta], lr=0.1, momentum=0.9, dampening=0.9)
    loss_of(theta).backward()
    dampened.step()  # torch's first average is the first gradient itself
    assert abs(theta.detach().numpy() - ours[0]).max() > 0.05


def test_nesterovs_forms_agree_in_the_shifted_variable():
    """With theta - mu v of the look-ahead form, v its last step, standing for torch's and for the sequences' theta."""
    ahead = run("nesterov:form=lookahead", rates=CONSTANT)
    steps = np.diff(np.vstack([START, ahead]), axis=0)
    shifted = ahead + 0.9 * steps
    np.testing.assert_allclose(run("nesterov", rates=CONSTANT), shifted, rtol=0, atol=EXACT)
    np.testing.assert_allclose(run("nesterov:form=three-sequence", rates=CONSTANT), shifted, rtol=0, atol=EXACT)
    assert abs(ahead - shifted).max() > 1e-2


def test_adamw_is_adam_with_decay_apart():
    np.testing.assert_allclose(run("adamw", 0.5), by_hand(of(adam, decay=0.5)), rtol=0, atol=EXACT)
    np.testing.assert_allclose(run("lion", 0.5), by_hand(of(lion, decay=0.5)), rtol=0, atol=EXACT)


COUPLED = [text for text in RULES if not text.startswith(("adamw", "lion", "newton", "saddle-free-newton"))]


@pytest.mark.parametrize("text", COUPLED)
def test_weight_decay_is_part_of_the_gradient(text):
    np.testing.assert_allclose(
        run(text, 0.5),
        by_hand(RULES[text], g=lambda theta: gradient(theta) + 0.5 * theta),
        rtol=0,
        atol=tolerance(text),
    )


@pytest.mark.parametrize("text", ["newton", "newton:damping=0.5", "saddle-free-newton"])
def test_newton_sees_weight_decay_in_gradient_and_hessian(text):
    def with_decay(theta):
        return loss_of(theta) + 0.25 * (theta**2).sum()

    np.testing.assert_allclose(run(text, 0.5), run(text, loss=with_decay), rtol=0, atol=EXACT)


def test_newton_goes_to_a_saddle_and_the_saddle_free_one_away():
    def saddle(theta):
        return theta[0] ** 2 - theta[1] ** 2 + theta[1] ** 4

    rates, start = [1.0] * 20, [0.3, 0.1]
    np.testing.assert_allclose(run("newton", rates=rates, loss=saddle, start=start)[-1], 0.0, atol=1e-9)
    ends = run("saddle-free-newton:damping=0", rates=rates, loss=saddle, start=start)[-1]
    np.testing.assert_allclose(ends, [0.0, math.sqrt(0.5)], atol=1e-6)


def test_adam_without_correction_begins_too_large():
    """Under a constant gradient the first step is (1 - beta1) / sqrt(1 - beta2) = 3.1623 lr, the 12th 6.5685 lr."""
    path = run("adam:bias_correction=false", rates=[1.0] * 40, loss=lambda theta: theta.sum() * 1e6, start=[0.0, 0.0])
    steps = -np.diff(np.concatenate([[0.0], path[:, 0]]))
    assert steps[0] == pytest.approx(3.1623, abs=1e-4)
    assert steps.argmax() == 11 and steps.max() == pytest.approx(6.5685, abs=1e-4)
    corrected = run("adam", rates=[1.0] * 40, loss=lambda theta: theta.sum() * 1e6, start=[0.0, 0.0])
    np.testing.assert_allclose(-np.diff(corrected[:, 0]), 1.0, rtol=1e-6)


def test_acceleration_has_its_rate():
    """f - f* <= 2 L ||x0 - x*||^2 / (k + 1)^2 with growing momentum, where plain descent is only of order 1 / k."""
    values = torch.logspace(-4, 0, 50, dtype=torch.float64)
    start = np.ones(50)

    def loss(theta):
        return (values * theta**2).sum() / 2

    def losses(text):
        path = run(text, rates=[1.0] * 400, loss=loss, start=start)
        return (values.numpy() * path**2).sum(1) / 2

    accelerated, plain = losses("nesterov:form=three-sequence,growing=true"), losses("sgd")
    k = np.arange(1, 401)
    assert (accelerated <= 2 * 50 / (k + 1) ** 2).all() and (plain <= 50 / (2 * k)).all()
    slopes = [np.polyfit(np.log(k[19:200]), np.log(curve[19:200]), 1)[0] for curve in (accelerated, plain)]
    assert slopes[0] <= -1.9 and -1.2 <= slopes[1] <= -0.8


# --- the edge of stability ------------------------------------------------------------------------------------

BETA = 0.9
EDGES = {
    "sgd": 2.0,
    "gd": 2.0,
    "momentum": 2 + 2 * BETA,
    "momentum:form=sutskever": 2 + 2 * BETA,
    "momentum:form=heavy-ball": 2 + 2 * BETA,
    "momentum:form=ema": (2 + 2 * BETA) / (1 - BETA),
    "nesterov": (2 + 2 * BETA) / (1 + 2 * BETA),
    "nesterov:form=lookahead": (2 + 2 * BETA) / (1 + 2 * BETA),
    "nesterov:form=three-sequence": (2 + 2 * BETA) / (1 + 2 * BETA),
}


@pytest.mark.parametrize("text", EDGES)
def test_edge_of_stability_on_a_quadratic(text):
    """On theta^2 / 2 the rate just below the edge brings theta to zero, just above it away."""

    def farther(rate):
        path = run(text, rates=[rate] * 600, loss=lambda theta: (theta**2).sum() / 2, start=[1e-6, 0.0])
        return abs(path[-20:]).max() / 1e-6

    assert farther(0.98 * EDGES[text]) < 0.1 < 10 < farther(1.02 * EDGES[text])


# --- how they behave as torch's optimizers do -----------------------------------------------------------------


def test_lion_moves_each_coordinate_by_the_learning_rate():
    theta = nn.Parameter(torch.zeros(5))
    optimizer = Lion([theta], lr=0.01)
    theta.grad = torch.tensor([1e-9, -3.0, 0.0, 7.0, -1e-5])
    optimizer.step()
    assert theta.tolist() == pytest.approx([-0.01, 0.01, 0.0, -0.01, 0.01])


@pytest.mark.parametrize("text", RULES)
def test_a_parameter_without_gradient_stays(text):
    used, idle = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    parameters = [used] if "newton" in text else [used, idle]
    optimizer = build_optimizer(text, parameters, lr=0.1)

    def closure():
        loss = used.square().sum()
        if "newton" not in text:
            loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert used.max() < 1.0 and torch.equal(idle, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("text", RULES)
def test_state_survives_saving_bit_for_bit(text):
    def steps(optimizer, theta, count):
        for _ in range(count):

            def closure():
                optimizer.zero_grad()
                loss = loss_of(theta)
                if not isinstance(optimizer, Newton):
                    loss.backward()
                return loss

            optimizer.step(closure)

    # in float32, as runs train: torch would load what NAdam keeps in float32 as float64 beside such parameters
    whole, half = (nn.Parameter(torch.from_numpy(START.astype(np.float32))) for _ in range(2))
    steps(build_optimizer(text, [whole], 0.1), whole, 6)
    first = build_optimizer(text, [half], 0.1)
    steps(first, half, 3)
    second = build_optimizer(text, [half], 0.1)
    second.load_state_dict(first.state_dict())
    steps(second, half, 3)
    assert torch.equal(whole, half)


def test_looking_ahead_by_hand_is_the_closure():
    theta = nn.Parameter(torch.from_numpy(START.copy()))
    optimizer = NesterovLookAhead([theta], lr=0.1, momentum=0.9)
    for expected in by_hand(lookahead, rates=[0.1] * 5):
        optimizer.zero_grad()
        optimizer.look_ahead()
        loss_of(theta).backward()
        optimizer.look_back()
        optimizer.step()
        np.testing.assert_allclose(theta.detach().numpy(), expected, rtol=0, atol=EXACT)
    with pytest.raises(RuntimeError, match=r"needs the gradient of where the velocity leads: give step\(closure\)"):
        optimizer.step()


def test_newton_needs_its_hessian():
    theta = nn.Parameter(torch.ones(2))
    optimizer = Newton([theta], lr=1.0)
    theta.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="needs the Hessian: give step"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="the Hessian is not finite"):
        optimizer.step(lambda: (theta * math.inf).square().sum())
    with pytest.raises(ValueError, match="takes at most 2000 parameters; choose a narrower model"):
        Newton([nn.Parameter(torch.zeros(2001))], lr=1.0)


def test_newton_in_a_direction_that_the_loss_does_not_know():
    theta = nn.Parameter(torch.tensor([3.0, 5.0]))
    Newton([theta], lr=1.0).step(lambda: theta[0] ** 2)
    assert theta.tolist() == [0.0, 5.0]


def test_newton_leaves_frozen_parameters_alone():
    theta, frozen = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([2.0]), requires_grad=False)
    Newton([theta, frozen], lr=1.0).step(lambda: (theta * frozen).square().sum())
    assert (theta.item(), frozen.item()) == (0.0, 2.0)


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("adm", {}, "unknown optimizer 'adm'; did you mean 'adam'"),
        ("adam", {"momentum": 0.9}, "'adam' takes no option momentum; it takes: betas, eps"),
        ("adam:rho=0.9", {}, "'adam' takes no option rho"),
        ("adam:amsgrad=perhaps", {}, "optimizer 'adam': amsgrad: expected bool, got 'perhaps'"),
        ("momentum:form=polyak", {}, "form: expected torch | sutskever | ema | heavy-ball, got 'polyak'"),
        ("lion", {"lr": -1.0}, "optimizer 'lion' needs lr >= 0, got -1.0"),
        ("sgd", {"lr": math.nan}, "needs lr >= 0, got nan"),
        ("sgd", {"weight_decay": -1.0}, "needs weight_decay >= 0, got -1.0"),
        ("momentum:1.0", {}, r"needs momentum in \[0, 1\), got 1.0"),
        ("rmsprop:alpha=1.5", {}, r"needs alpha in \[0, 1\), got 1.5"),
        ("adadelta:rho=-0.1", {}, r"needs rho in \[0, 1\), got -0.1"),
        ("adam", {"betas": (0.9, 1.0)}, r"needs betas, two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ("adam:eps=0", {}, "needs eps > 0, got 0.0: without it a weight whose gradient is always zero moves by 0/0"),
        ("newton:damping=-1", {}, "needs damping >= 0, got -1.0"),
        ("nesterov:growing=true", {}, "only the momentum of form=three-sequence can be growing, got form=torch"),
        ("nesterov:momentum=0", {}, "nesterov in torch's form needs a momentum above 0"),
        ("nadam:form=constant,momentum_decay=0.1", {}, "form=constant takes no momentum_decay, got 0.1"),
    ],
)
def test_bad_choices_are_named(text, options, message):
    with pytest.raises(ValueError, match=message.replace(" | ", r" \| ")):
        build_optimizer(text, [nn.Parameter(torch.zeros(1))], **{"lr": 0.1, **options})


def test_classes_of_ours_refuse_settings_too():
    with pytest.raises(ValueError, match=r"Lion needs betas, two numbers in \[0, 1\)"):
        Lion([nn.Parameter(torch.zeros(1))], betas=(0.9, 1.0))


def test_a_choice_has_one_text():
    texts = ["momentum:momentum=0.9,form=ema", "momentum:form=ema", "momentum:0.9,ema"]
    assert {OPTIMIZERS.write(*OPTIMIZERS.read(text)) for text in texts} == {"momentum:form=ema"}
    assert OPTIMIZERS.write("adam", {"amsgrad": False}) == "adam"
    assert OPTIMIZERS.write("adam", {"amsgrad": True, "eps": 1e-7}) == "adam:eps=1e-07,amsgrad=true"
    colours = Registry("colour")
    colours["blue"] = lambda *, shade=1: shade
    with pytest.raises(ValueError, match="colour 'blue' takes no option tint"):
        colours.write("blue", {"tint": 1})


def test_pairs_of_steps_shrink():
    """Negative control of `run`: the toy is one that descent solves."""
    losses = [loss_of(torch.from_numpy(theta)).item() for theta in run("sgd", rates=[0.1] * 50)]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_a_form_that_is_not_known_is_refused_from_python_too():
    with pytest.raises(ValueError, match="optimizer 'nadam': form must be torch or constant, got 'dozat'"):
        build_optimizer("nadam", [torch.nn.Parameter(torch.zeros(2))], 0.1, 0.0, form="dozat")
