"""Runs are compared by numbers with their errors, and only by those that mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from landscape.summary import summarize
from landscape.width import width
from tests.answers import bowl, slice_answer, spectrum_answer, spectrum_by_step, surface_answer, training_answer


def test_a_summary_holds_what_was_measured():
    answers = {"slice-1": slice_answer(seeds=4), "spectrum-1": spectrum_answer(), "training": training_answer()}
    found = summarize(answers)
    assert list(found) == ["test error", "loss", "sharpness", "most negative eigenvalue", "width"]
    assert found["test error"].value == pytest.approx(1 - 0.95 / (1 + 0.4 * bowl(0.0)))
    assert found["loss"].value == pytest.approx(bowl(0.0))
    assert (found["sharpness"].value, found["sharpness"].error) == pytest.approx((18.0, 0.542))
    assert str(found["most negative eigenvalue"]) == "-0.90 ± 0.03"
    assert found["width"] == width(answers["slice-1"])


def test_a_summary_of_nothing_is_empty():
    assert summarize({}) == {}
    assert summarize({"training": training_answer()}) == {}  # validation accuracy is no test error


def test_an_eigenvalue_that_did_not_converge_says_so():
    answer = spectrum_answer()
    answer["converged"][:] = False
    assert str(summarize({"spectrum-1": answer})["sharpness"]) == "18.0 ± 0.5 (not converged)"


def test_eigenvalues_of_a_block_or_of_earlier_steps_are_not_the_sharpness():
    block = spectrum_answer()
    block.attrs["probe_fields"] = '{"k": 5, "parameters": "layer3.*"}'
    assert "sharpness" not in summarize({"spectrum-1": block, "spectrum-by-step-1": spectrum_by_step()})
    block.attrs["probe_fields"] = "{"
    assert "sharpness" not in summarize({"spectrum-1": block})


def test_no_eigenvalue_found_is_no_number():
    answer = spectrum_answer()
    answer["eigenvalue"][:] = np.nan
    assert "sharpness" not in summarize({"spectrum-1": answer})


def test_the_width_is_that_of_filter_normalized_directions():
    raw = slice_answer(seeds=9)
    raw.attrs["directions"] = "gaussian"
    one, many = slice_answer(), slice_answer(seeds=3)
    assert "width" not in summarize({"slice-0": raw, "surface-0": surface_answer()})
    assert summarize({"slice-0": raw, "slice-1": one, "slice-2": many})["width"] == width(many)


def test_a_diverged_checkpoint_has_no_width():
    assert "width" not in summarize({"slice-0": slice_answer().assign(center_loss=np.nan)})


def test_the_last_test_accuracy_of_training_is_used_where_no_probe_measured_one():
    training = training_answer().assign(test_accuracy=("epoch", np.linspace(0.5, 0.9, 6)))
    assert summarize({"training": training})["test error"].value == pytest.approx(0.1)


def test_the_run_s_own_data_counts_before_any_other():
    own, other, few = slice_answer(), slice_answer(), slice_answer()
    for answer, digest, examples, loss in ((own, "own", 100, 1.0), (other, "other", 900, 2.0), (few, "few", 10, 3.0)):
        answer["center_loss"] = loss
        answer.attrs.update(data_sha256=digest, num_examples=examples)
    answers = {"slice-0": other, "slice-1": few, "slice-2": own}
    assert str(summarize(answers, "own")["loss"]) == "1"
    assert str(summarize({"slice-0": other, "slice-1": few}, "own")["loss"]) == "2 (on 900 examples)"
    own.attrs["normalization"] = "batch"
    assert str(summarize({"slice-2": own}, "own")["loss"]) == "1 (batch statistics)"


def test_what_training_measured_counts_before_any_probe():
    training = training_answer().assign(test_accuracy=0.75, final_train_loss=0.125)
    found = summarize({"slice-0": slice_answer(), "training": training})
    assert (found["test error"].value, found["loss"].value) == (0.25, 0.125)


def test_a_converged_eigenvalue_counts_before_one_that_is_not():
    rough, exact = spectrum_answer(), spectrum_answer()
    rough["converged"][:] = False
    rough["eigenvalue"][:] *= 2
    assert str(summarize({"spectrum-0": rough, "spectrum-1": exact})["sharpness"]) == "18.0 ± 0.5"
