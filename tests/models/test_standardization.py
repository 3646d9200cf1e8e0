"""Standardized, rotated and whitened inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.data import load_data
from models.data.splits import Pool, split
from models.data.standardization import STANDARDIZATIONS, check_standardization, fit_standardization

OPTIONS = dict(train_size=None, test_size=None, val_fraction=0.0, label_noise=0.0, seed=0)
FORMS = [*STANDARDIZATIONS, "whiten:eps=0", "whiten:form=pca"]


def hessian(text: str) -> np.ndarray:
    """Eigenvalues of the Hessian of linear regression on the digits (no bias), those without variance left out."""
    x = load_data("digits", standardize=text).train.inputs.double().flatten(1).numpy()
    values = np.linalg.eigvalsh(x.T @ x / len(x))
    return values[values > 1e-9 * values.max()]


def test_whitening_makes_linear_regression_well_conditioned():
    condition = {text: hessian(text).max() / hessian(text).min() for text in FORMS}
    assert condition["whiten:eps=0"] == pytest.approx(1, abs=1e-5)  # inputs are float32
    assert 1 < condition["whiten"] == pytest.approx(condition["whiten:form=pca"], rel=1e-4)
    rounded = {text: float(f"{condition[text]:.0e}") for text in ("none", "channel", "pca", "whiten")}
    assert rounded == {"none": 3e6, "channel": 2e6, "pca": 2e5, "whiten": 4}  # what the module says
    assert condition["pixel"] == pytest.approx(150, rel=0.05)


def test_whitened_variances_are_v_over_v_plus_eps():
    v = np.sort(hessian("pca"))
    assert np.sort(hessian("whiten:eps=1e-3")) == pytest.approx(v / (v + 1e-3), rel=1e-3)


def test_principal_components_are_uncorrelated_and_in_order():
    x = load_data("digits", standardize="pca").train.inputs.double().flatten(1)
    covariance = (x.T @ x / len(x)).numpy()
    variances = covariance.diagonal().copy()
    assert np.abs(covariance - np.diag(variances)).max() < 1e-6 * variances.max()
    assert (np.diff(variances) <= 1e-7).all() and x.mean(0).abs().max() < 1e-6
    plain = load_data("digits", standardize="none").train.inputs.double().flatten(1)
    centered = plain - plain.mean(0)
    assert torch.allclose(x.norm(dim=1), centered.norm(dim=1), rtol=1e-5)  # a rotation


def test_zca_is_the_symmetric_square_root_and_keeps_pixels_where_they_are():
    plain = load_data("digits", standardize="none", val_fraction=0.0).train.inputs.numpy()
    zca, pca = (fit_standardization(f"whiten:eps=1e-3,form={form}", plain) for form in ("zca", "pca"))
    assert np.allclose(zca.matrix, zca.matrix.T)
    centered = (plain - zca.shift).reshape(len(plain), -1)
    distances = [np.square(f(plain).reshape(len(plain), -1) - centered).sum() for f in (zca, pca)]
    assert distances[0] < distances[1]
    assert np.allclose(zca.matrix @ zca.inverse, np.eye(64), atol=1e-9)
    assert np.allclose(pca.matrix @ pca.inverse, np.eye(64), atol=1e-9)


@pytest.mark.parametrize("text", FORMS)
def test_shapes_stay_and_the_way_back_is_exact(text):
    parts = load_data("digits", standardize=text, val_fraction=0.2)
    plain = load_data("digits", standardize="none", val_fraction=0.2)
    there = parts.standardization.on(torch.device("cpu"))
    for part, came in ((parts.train, plain.train), (parts.val, plain.val), (parts.test, plain.test)):
        assert part.inputs.shape == came.inputs.shape and part.inputs.isfinite().all()
        assert torch.allclose(there.undo(part.inputs), came.inputs, atol=2e-5)
        assert torch.allclose(there(came.inputs), part.inputs, atol=2e-3)  # whitened, 1e-5 is divided by sqrt(1e-5)


@pytest.mark.parametrize("text", ["pca", "whiten"])
def test_only_the_training_split_is_looked_at(text):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(60, 2, 3, 3)).astype(np.float32), np.arange(60) % 3
    other = rng.normal(5, 9, size=(20, 2, 3, 3)).astype(np.float32)
    first, second = (
        split(Pool(inputs, targets, test, targets[:20]), standardize=text, **OPTIONS) for test in (other, other * 7)
    )
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert first.input_shape == (2, 3, 3)


@pytest.mark.parametrize("text", ["pca", "whiten", "whiten:eps=0", "whiten:eps=0,form=pca"])
def test_constant_pixels_and_fewer_examples_than_pixels(text):
    inputs = np.random.default_rng(0).normal(size=(5, 1, 3, 3)).astype(np.float32)
    inputs[:, 0, 1] = 0.3
    fitted = fit_standardization(text, inputs)
    assert np.isfinite(fitted(inputs)).all() and np.isfinite(fitted.inverse).all()
    assert np.abs(fitted.matrix).max() < 100


def test_the_digest_of_rotated_data_is_that_of_what_was_rotated():
    """The last bits of eigenvectors depend on the machine; the data does not."""
    digests = [load_data("digits", standardize=text).digest for text in ("none", "pca", "whiten")]
    assert digests[0] == digests[1] == digests[2] != load_data("digits").digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("whitten", "unknown standardize 'whitten'; did you mean 'whiten'"),
        ("whiten:eps=-1", "standardize 'whiten' needs eps of at least 0, got -1.0"),
        ("whiten:form=cholesky", "form: expected zca | pca, got 'cholesky'"),
        ("pca:3", "standardize 'pca' takes no option 3"),
    ],
)
def test_bad_choices_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        check_standardization(text)


def test_inputs_of_too_many_entries_are_refused():
    with pytest.raises(ValueError, match="of all entries of an input, at most 4096, got 4107; choose channel or pixel"):
        fit_standardization("whiten", np.zeros((2, 3, 37, 37), np.float32))
