"""All measures of sharpness of a set of runs beside how well these generalize, with rank correlations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from landscape.sharpness.ranks import (
    COEFFICIENTS,
    FEWEST,
    FEWEST_FOR_INTERVAL,
    FEWEST_IN_STRATUM,
    RankCorrelation,
    rank_correlation,
)

Row = Mapping[str, Any]
OUTCOMES = ("test_error", "error_gap", "loss_gap")
_PER_MEASURE = ("value", "standard_error", "low", "high", "first_order_share", "nonfinite", "resolved")


@dataclass(frozen=True)
class SharpnessReport:
    """Correlate every measure of sharpness with how well runs generalize, overall and within strata.

    Attributes:
        strata: Fields of the runs within whose values the correlation is also taken, such as batch_size; several
            joined by + are held fixed together.
        outcomes: Columns of the rows that tell how well a run generalizes; those that no run has are left out.
        resamples: Of the bootstrap over runs.
        seed: Of the bootstrap.
    """

    strata: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = OUTCOMES
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}.")
        if not self.outcomes:
            raise ValueError("outcomes needs at least one column, such as test_error.")

    def __call__(self, rows: Sequence[Row], answers: Sequence[xr.Dataset]) -> xr.Dataset:
        """Put runs side by side.

        Args:
            rows: One mapping a run: ``run``, its name; the outcomes; the fields named in `strata`.
            answers: What the probe Sharpness answered, in the order of the rows, all with the same fields.

        Returns:
            value, standard_error, low, high, first_order_share, nonfinite, resolved over (run, measure), runs sorted by
            the first outcome; outcome_value over (run, outcome); loss and gradient_norm over run; and over (outcome,
            scope, measure, coefficient) the correlation, low and high of its 95% interval as correlation_low and
            correlation_high, p_value, smallest_p_value, num_runs and num_strata. Attribute `remark` says what the
            number of runs does not allow.

        Raises:
            ValueError: If there are fewer than 4 runs, two have one name, they were measured in different ways, no run
                has an outcome, or a field of the strata is missing.
        """
        self._require(rows, answers)
        outcomes = [
            name for name in self.outcomes if any(_number(row.get(name)) == _number(row.get(name)) for row in rows)
        ]
        if not outcomes:
            raise ValueError(f"no run has any of {', '.join(self.outcomes)}, so there is nothing to correlate with.")
        order = np.argsort([_number(row.get(outcomes[0])) for row in rows], kind="stable")
        rows, answers = [rows[i] for i in order], [answers[i] for i in order]
        joined = {name: np.stack([a[name].values for a in answers]) for name in _PER_MEASURE}
        table = np.array([[_number(row.get(name)) for name in outcomes] for row in rows])
        scopes = ["overall", *(f"within {name}" for name in self.strata)]
        found = self._correlations(joined["value"], table, [None, *(_stratum(rows, name) for name in self.strata)])
        dims = ("outcome", "scope", "measure", "coefficient")
        variables: dict[str, Any] = {name: (("run", "measure"), values) for name, values in joined.items()}
        variables |= {
            name: (
                dims,
                np.array([getattr(one, field) for one in found.ravel()]).reshape(found.shape),
                {"long_name": text},
            )
            for name, field, text in _CORRELATION
        }
        variables["outcome_value"] = (("run", "outcome"), table)
        for name in ("loss", "gradient_norm"):
            variables[name] = ("run", np.array([float(a[name]) for a in answers]))
        for name in ("definition", "scale", "bounds"):
            variables[name] = ("measure", answers[0][name].values)
        variables |= {
            f"field_{name.replace('+', '.')}": ("run", [str(s) for s in _stratum(rows, name)]) for name in self.strata
        }
        coords = {
            "run": [str(row["run"]) for row in rows],
            "measure": answers[0]["measure"].values,
            "outcome": outcomes,
            "scope": scopes,
            "coefficient": list(COEFFICIENTS),
        }
        attrs = {
            "probe": "sharpness-report",
            "probe_fields": json.dumps(asdict(self), sort_keys=True),
            "sharpness_fields": str(answers[0].attrs.get("probe_fields", "")),
            "remark": _remark(found, len(rows)),
        }
        return xr.Dataset(variables, coords, attrs)

    def _correlations(self, values: np.ndarray, outcomes: np.ndarray, strata: Sequence[Any]) -> np.ndarray:
        shape = (outcomes.shape[1], len(strata), values.shape[1], len(COEFFICIENTS))
        found = np.empty(shape, object)
        for index in np.ndindex(shape):
            outcome, scope, measure, coefficient = index
            found[index] = rank_correlation(
                values[:, measure],
                outcomes[:, outcome],
                strata[scope],
                list(COEFFICIENTS)[coefficient],
                self.resamples,
                self.seed,
            )
        return found

    def require_runs(self, rows: Sequence[Row]) -> None:
        """Refuse runs that cannot be put side by side, before anything is measured.

        Raises:
            ValueError: If there are fewer than 4, two have one name, or a field of the strata is missing.
        """
        if len(rows) < FEWEST:
            raise ValueError(
                f"a sharpness report needs at least {FEWEST} runs, got {len(rows)}: fewer can show no correlation."
            )
        names = [str(row["run"]) for row in rows]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"run {twice[0]} is there twice; name each run once.")
        for field in [part for name in self.strata for part in name.split("+")]:
            if missing := [str(row["run"]) for row in rows if field not in row]:
                known = ", ".join(sorted(set(rows[0]) - {"run"}))
                raise ValueError(f"strata: run {missing[0]} has no field {field!r}; it has {known or 'none'}.")

    def _require(self, rows: Sequence[Row], answers: Sequence[xr.Dataset]) -> None:
        self.require_runs(rows)
        if len(rows) != len(answers):
            raise ValueError(f"expected one answer a run, got {len(answers)} for {len(rows)} runs.")
        if len({str(a.attrs.get("probe_fields")) for a in answers}) > 1:
            raise ValueError("the runs were measured with different fields of the probe; measure all with the same.")
        policies = {str(a.attrs.get("normalization")) for a in answers}
        if len(policies) > 1:
            raise ValueError(f"the runs were measured under different normalization ({', '.join(sorted(policies))}).")


def generalization(*metrics: Mapping[str, Any]) -> dict[str, float]:
    """Read from a run's metrics how well it generalizes.

    Args:
        *metrics: Mappings with test_accuracy, test_loss, final_train_accuracy or accuracy, final_train_loss or loss;
            where several have a number the first counts.

    Returns:
        Those that can be told of test_error, error_gap (test error less training error) and loss_gap (test loss less
        training loss, nats).
    """
    known = {name: float(values[name]) for values in reversed(metrics) for name in values}
    accuracy, loss = (known.get(f"final_train_{name}", known.get(name)) for name in ("accuracy", "loss"))
    found = {}
    if "test_accuracy" in known:
        found["test_error"] = 1 - known["test_accuracy"]
        if accuracy is not None:
            found["error_gap"] = accuracy - known["test_accuracy"]
    if "test_loss" in known and loss is not None:
        found["loss_gap"] = known["test_loss"] - loss
    return found


_CORRELATION = (
    ("correlation", "value", "rank correlation over runs"),
    ("correlation_low", "low", "lower end of the 95% BCa bootstrap interval over runs"),
    ("correlation_high", "high", "upper end of the 95% BCa bootstrap interval over runs"),
    ("p_value", "p_value", "two-sided permutation p-value"),
    ("smallest_p_value", "smallest_p", "least p-value that so few runs could give"),
    ("num_runs", "num_runs", "runs that count"),
    ("num_strata", "num_strata", "strata that count"),
)


def _stratum(rows: Sequence[Row], name: str) -> list[str]:
    return [" ".join(str(row[field]) for field in name.split("+")) for row in rows]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _remark(found: np.ndarray, runs: int) -> str:
    """What the number of runs does not allow."""
    remarks = []
    overall: list[RankCorrelation] = list(found[:, 0].ravel())
    if runs < FEWEST_FOR_INTERVAL:
        remarks.append(f"{runs} runs are too few for an interval ({FEWEST_FOR_INTERVAL} are needed)")
    elif runs < 10:
        remarks.append(f"{runs} runs: intervals over so few are rough, go by the p-values")
    least = max((one.smallest_p for one in overall if one.is_exact), default=0.0)
    if least > 0.01:
        remarks.append(f"no p-value below {least:.2g} is possible")
    if found.shape[1] > 1 and max(one.num_runs for one in found[:, 1:].ravel()) < FEWEST:
        remarks.append(f"within strata: fewer than {FEWEST} runs in strata of {FEWEST_IN_STRATUM} or more, so no value")
    tests = found.shape[2]
    remarks.append(f"{tests} measures: about {0.05 * tests:.1g} would have p < 0.05 by chance alone")
    return "; ".join(remarks)
