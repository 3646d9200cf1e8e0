"""Answers as plain text: short tables for a terminal, and the same numbers as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from landscape.text import clean

if TYPE_CHECKING:
    import xarray as xr


_REMARKS = {
    "moved": "moved",
    "invariance_warning": "warning",
}  # attributes that are sentences, and what they begin with
_MOST_MEMBERS = 30  # of an ensemble that get a line each


def number(value: object) -> str:
    """Write a value with four significant digits, or as it is where it is not a real number.

    >>> number(0.123456), number(12), number(float("nan")), number(None)
    ('0.1235', '12', 'nan', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else clean(value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows in aligned columns, names to the left and numbers to the right, without empty columns."""
    names = dict.fromkeys(key for row in rows for key in row)
    columns = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    cells = [columns, *([number(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    is_text = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    return "\n".join(_line(line, widths, is_text) for line in cells)


def scalars(answer: xr.Dataset) -> dict[str, Any]:
    """The variables of an answer that hold a single value, as plain Python values."""
    return {str(name): v.item() for name, v in answer.data_vars.items() if v.ndim == 0}


def nonfinite(answer: xr.Dataset) -> int:
    """Count the measured points of an answer whose loss is NaN or infinite.

    Only losses count: a band or a further metric is derived from the same points.
    """
    loss = answer.get("loss")
    if loss is None or loss.dtype.kind != "f":
        return 0
    values = loss.values if "done" not in answer else loss.values[answer["done"].values]
    return int(sum(not math.isfinite(value) for value in values.ravel()))


def unfinished(answer: xr.Dataset) -> int:
    """Count the points of an answer that failed and were left out."""
    return int((~answer["done"]).sum()) if "done" in answer else 0


def summary(answer: xr.Dataset) -> str:
    """Tell in a few lines what an answer found."""
    lines = [f"{name}: {number(value)}" for name, value in scalars(answer).items()]
    if "eigenvalue" in answer and "residual" in answer:
        lines.insert(0, eigenvalue_table(answer))
    elif _is_sharpness(answer):
        lines.insert(0, sharpness_table(answer))
        lines += [f"remark: {clean(answer.attrs['remark'], limit=1000)}"] if "remark" in answer.attrs else []
    elif _is_ensemble(answer):
        lines.insert(0, ensemble_table(answer))
    elif "num_parameters" in answer and answer["num_parameters"].dims == ("layer",):
        lines.insert(0, layer_table(answer))
    else:
        lines += [_range(name, v) for name, v in answer.data_vars.items() if _is_curve(str(name), v)]
    if verdict := answer.attrs.get("verdict"):
        lines.append(f"verdict: {clean(verdict)} ({clean(answer.attrs.get('verdict_reason', ''))})")
    if bad := nonfinite(answer):
        lines.append(f"non-finite: {bad} of {answer['loss'].size} points (kept as they are)")
    return "\n".join([*lines, *remarks(answer)])


def remarks(answer: xr.Dataset) -> list[str]:
    """What an answer says of itself in whole sentences: which parameters it moved, what it is not invariant to."""
    return [
        f"{word}: {clean(answer.attrs[name], limit=1000)}" for name, word in _REMARKS.items() if answer.attrs.get(name)
    ]


def eigenvalue_table(answer: xr.Dataset) -> str:
    """One line an eigenvalue: value, residual as its error bar, and whether it converged."""
    pairs = answer[["eigenvalue", "residual", "converged"]].to_dataframe().reset_index()
    return table(
        [
            {
                **{str(dim): row[dim] for dim in answer["eigenvalue"].dims},
                "eigenvalue": float(row["eigenvalue"]),
                "± residual": float(row["residual"]),
                "converged": "yes" if row["converged"] else "no",
            }
            for row in pairs.to_dict("records")
        ]
    )


def sharpness_table(answer: xr.Dataset) -> str:
    """One line a measure: value, interval, how much of it is slope, and what a reader must know."""
    rows = []
    for name in answer["measure"].values:
        one = answer.sel(measure=name)
        low, high = float(one["low"]), float(one["high"])
        rows.append(
            {
                "measure": clean(name),
                "value": float(one["value"]),
                "interval": f"{number(low)} to {number(high)}" if math.isfinite(low + high) else "",
                "slope": "" if math.isnan(share := float(one["first_order_share"])) else f"{share:.0%}",
                "": _remark_on(one),
            }
        )
    return table(rows)


def report_table(report: xr.Dataset) -> str:
    """One line a run of a sharpness report, best first: outcomes, then every measure; * where most of it is slope."""
    rows = []
    for run in report["run"].values:
        one = report.sel(run=run)
        row: dict[str, Any] = {"run": clean(run)}
        row |= {clean(name): float(one["outcome_value"].sel(outcome=name)) for name in one["outcome"].values}
        row |= {"loss": float(one["loss"]), "gradient norm": float(one["gradient_norm"])}
        for name in one["measure"].values:
            measured = one.sel(measure=name)
            mark = "*" if float(measured["first_order_share"]) > 0.5 else ""
            row[clean(name)] = f"{number(float(measured['value']))}{mark}"
        rows.append(row)
    starred = any(str(value).endswith("*") for row in rows for value in row.values())
    return table(rows) + (
        "\n* more than half of this rise is the slope of the loss, not its curvature" if starred else ""
    )


def correlation_table(report: xr.Dataset) -> str:
    """For the first two outcomes of a sharpness report and each scope one line a measure, with rank correlations."""
    blocks = []
    for outcome in report["outcome"].values[:2]:
        for scope in report["scope"].values:
            part = report.sel(outcome=outcome, scope=scope)
            strata = int(part["num_strata"].max())
            kept = f", {strata} strata, {int(part['num_runs'].max())} runs in them" if scope != "overall" else ""
            rows = [
                {"measure": clean(name), **_correlations(part.sel(measure=name))} for name in report["measure"].values
            ]
            blocks.append(f"{clean(outcome)}, {clean(scope)}{kept}\n{table(rows)}")
    return "\n\n".join(blocks)


def _correlations(one: xr.Dataset) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for coefficient in map(str, one["coefficient"].values):
        found = one.sel(coefficient=coefficient)
        low, high = float(found["correlation_low"]), float(found["correlation_high"])
        row |= {
            coefficient: number(round(float(found["correlation"]), 3)),
            f"95% of {coefficient}": f"{low:+.2f} to {high:+.2f}" if math.isfinite(low + high) else "",
            f"p of {coefficient}": float(found["p_value"]),
        }
    return row


def layer_table(answer: xr.Dataset) -> str:
    """One line a layer: every number with its error, and `no` where an eigenvalue did not converge."""
    return table([_layer_row(answer.sel(layer=layer), clean(layer, 40)) for layer in answer["layer"].values])


def _layer_row(layer: xr.Dataset, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": name, "parameters": layer["num_parameters"].item()}
    for end in ("largest", "smallest"):
        if f"{end}_eigenvalue" in layer:
            row |= {end: layer[f"{end}_eigenvalue"].item(), f"± {end}": layer[f"{end}_residual"].item()}
    if "largest_converged" in layer:
        row["converged"] = "yes" if layer["largest_converged"] and layer["smallest_converged"] else "no"
    row |= {"trace": layer["trace"].item(), "± std. error": layer["trace_standard_error"].item()}
    for column, variable in {"Frobenius": "frobenius_norm", "gradient": "gradient_norm"}.items():
        if variable in layer:
            row[column] = layer[variable].item()
    return row


def ensemble_table(answer: xr.Dataset) -> str:
    """Scores of an ensemble beside those of what it is made of, what it gains, and its scores by number of members."""
    names, baselines = [str(name) for name in answer["score"].values], map(str, answer["baseline"].values)
    rows: list[dict[str, Any]] = []
    for baseline in baselines:
        one = answer.sel(baseline=baseline)
        rows.append({"": f"{baseline}, mean", **dict(zip(names, one["baseline_score"].values.tolist(), strict=True))})
        rows.append({"": f"gain over {baseline}", **{name: _gain(one.sel(score=name)) for name in names}})
    ensemble = {"": "ensemble", **dict(zip(names, answer["ensemble_score"].values.tolist(), strict=True))}
    growing = [
        {
            "members": int(answer["size"][index]),
            **{name: _mean_and_spread(answer.sel(score=name).isel(size=index)) for name in names},
            "subsets": int(answer["num_subsets"][index]),
        }
        for index in range(answer.sizes["size"])
    ]
    note = "gains: 95% bootstrap intervals over test examples, not over seeds; below: mean ± deviation over subsets"
    return "\n".join([table([ensemble, *rows]), note, table(growing), *_members(answer)])


def _members(answer: xr.Dataset) -> list[str]:
    """One line a member, where they have names and are not too many to read."""
    if "member_run" not in answer or answer.sizes["member"] > _MOST_MEMBERS:
        return []
    names = list(map(str, answer["score"].values))
    rows = [
        {
            **{word: clean(answer[f"member_{word}"].values[index], 40) for word in ("run", "name", "view")},
            **dict(zip(names, scores, strict=True)),
        }
        for index, scores in enumerate(answer["member_score"].values.tolist())
    ]
    return [table(rows)]


def _gain(one: xr.Dataset) -> str:
    low, high = float(one["gain_low"]), float(one["gain_high"])
    interval = f" ({number(low)} to {number(high)})" if math.isfinite(low + high) else ""
    return f"{number(float(one['gain']))}{interval}"


def _mean_and_spread(one: xr.Dataset) -> str:
    return f"{number(float(one['growth_mean']))} ± {float(one['growth_spread']):.2g}"


def comparison_table(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """One line a number from both packages, with both errors, then where the tolerances come from."""
    rows = [
        {
            "": c["quantity"],
            "landscape": c["ours"],
            "± error": c["our_error"],
            "pyhessian": c["theirs"],
            "± error ": c["their_error"],
            "difference": c["difference"],
            "allowed": c["tolerance"],
            "agree": "yes" if c["agrees"] else "NO",
        }
        for c in comparisons
    ]
    reasons = dict.fromkeys(f"allowed: {c['reason']}" for c in comparisons)
    return "\n".join([table(rows), *reasons])


def describe(answer: xr.Dataset) -> str:
    """Print an answer whole: its dimensions, every variable, and how it was made."""
    sizes = ", ".join(f"{clean(dim)} {size}" for dim, size in answer.sizes.items())
    variables = [
        {
            "variable": clean(name),
            "dims": "(" + ", ".join(map(clean, v.dims)) + ")",
            "dtype": str(v.dtype),
            "units": clean(v.attrs.get("units", "")),
            "value": _value(v),
        }
        for name, v in answer.variables.items()
    ]
    attributes = [f"  {clean(key)}: {clean(value)}" for key, value in answer.attrs.items() if key not in _REMARKS]
    parts = [f"dimensions: {sizes or 'none'}", table(variables)]
    if ("eigenvalue" in answer and "residual" in answer) or _is_sharpness(answer) or _is_ensemble(answer):
        parts.append(summary(answer))
    elif sentences := remarks(answer):
        parts.append("\n".join(sentences))
    return "\n\n".join([*parts, "\n".join(["how it was made:", *attributes])])


def contents(answer: xr.Dataset, path: object) -> dict[str, Any]:
    """Everything in an answer that a script would want: its values, coordinates and how it was made."""
    variables = {str(name): {"dims": v.dims, "values": v.values} for name, v in answer.variables.items()}
    return {
        "file": str(path),
        "sizes": dict(answer.sizes),
        "variables": variables,
        "attributes": answer.attrs,
    }


def jsonable(value: Any) -> Any:
    """Turn NumPy values, dataclasses and containers into what `json.dumps` writes; NaN and inf become strings."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    is_plain = value is None or isinstance(value, str | int | float)
    return value if is_plain and not (isinstance(value, float) and not math.isfinite(value)) else str(value)


def _is_sharpness(answer: xr.Dataset) -> bool:
    return "first_order_share" in answer and answer["value"].dims == ("measure",)


def _is_ensemble(answer: xr.Dataset) -> bool:
    return "growth_mean" in answer and "baseline_score" in answer


def _remark_on(measured: xr.Dataset) -> str:
    """What makes a measure of sharpness doubtful: slope, rounding, losses that were not finite."""
    if str(measured["definition"].item()).startswith("not measured"):
        return "not measured"
    bad, is_searched = int(measured["nonfinite"]), not math.isnan(float(measured["rise"]))
    remarks = [
        "mostly slope, not curvature" if float(measured["first_order_share"]) > 0.5 else "",
        "" if bool(measured["resolved"]) or bad else ("within rounding" if is_searched else "not converged"),
        f"{bad} losses not finite" if bad else "",
    ]
    return ", ".join(filter(None, remarks))


def _line(cells: Sequence[str], widths: Sequence[int], is_text: Sequence[bool]) -> str:
    padded = [c.ljust(w) if left else c.rjust(w) for c, w, left in zip(cells, widths, is_text, strict=True)]
    return "  ".join(padded).rstrip()


def _is_curve(name: str, variable: xr.DataArray) -> bool:
    is_spread = name.endswith(("_median", "_lower", "_upper"))
    return not is_spread and variable.ndim > 0 and variable.dtype.kind == "f" and variable.size > 0


def _range(name: object, variable: xr.DataArray) -> str:
    dims = ", ".join(f"{clean(dim)} {size}" for dim, size in variable.sizes.items())
    return f"{clean(name)}: {number(float(variable.min()))} to {number(float(variable.max()))} over {dims}"


def _value(variable: xr.Variable) -> str:
    if variable.ndim == 0:
        return number(variable.values.item())
    if variable.dtype.kind in "fiu" and variable.size:
        return f"{number(variable.values.min().item())} to {number(variable.values.max().item())}"
    return clean(", ".join(map(str, variable.values.ravel()[:4])), 40)


def probe_rows(answer: xr.Dataset) -> list[dict[str, Any]]:
    """Rows of linear probes: by layer and amount of examples, accuracy with its interval and that of random weights."""
    rows = []
    for amount in answer["amount"].values:
        for layer in answer["layer"].values:
            one = answer.sel(amount=amount, layer=layer)
            row = {"examples": int(amount), "layer": str(layer), "accuracy": one["accuracy"].item()}
            row |= {"from": one["accuracy_low"].item(), "to": one["accuracy_high"].item()}
            if one.sizes.get("null"):
                row["random weights"] = one["null_accuracy"].mean().item()
            rows.append({**row, "features": int(one["features"])})
    return rows


def continual_table(answer: xr.Dataset) -> str:
    """Write what continual learning ended with, a row a method: the mean over seeds, and the standard error."""
    rows = []
    for method in answer["strategy"].values:
        row: dict[str, Any] = {"method": str(method)}
        for name in ("average_accuracy", "backward_transfer", "forgetting"):
            values = answer[name].sel(strategy=method)
            row[name] = float(values.mean())
            if values.size > 1:
                row[f"{name}_se"] = float(values.std(ddof=1)) / values.size**0.5
        rows.append(row)
    return table(rows)
