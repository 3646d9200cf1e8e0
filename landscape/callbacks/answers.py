"""The answers `training` and `trajectory`: put together from rows, and cut into rows again to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from landscape.callbacks.rows import Rows, Tables
from landscape.monitors import Flow, depth_slope
from landscape.parameters import ParameterLayout

_PER_STEP = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "epoch_of_step",
    "chord_length",
    "turn_cosine",
    "distance_from_start",
)
_PER_LAYER = ("layer_gradient_norm", "update_ratio", "parameter_norm")
_PER_ACTIVATION = (
    "activation_mean",
    "activation_variance",
    "saturated_share",
    "dead_share",
    "dormant_share",
    "histogram_low",
    "histogram_high",
)
_PER_MODULE = ("output_mean", "output_variance", "backpropagated_norm", "backpropagated_variance")

Columns = Mapping[str, np.ndarray]


def training_of(rows: Tables, layers: list[str]) -> xr.Dataset:
    """Put together what was recorded by step and by epoch.

    Args:
        rows: With the tables "step" (the variables by step and by layer) and "epoch" (any metrics).
        layers: The names that the layer axis counts.

    Returns:
        Dims (step, layer, epoch); `step` counts optimizer updates from 1, `epoch` from 0.
    """
    steps, epochs = rows.table("step"), rows.table("epoch")
    unknown = np.full(len(steps.get("step", ())), np.nan)  # of a training that began before a column was added
    variables: dict[str, Any] = {name: ("step", steps.get(name, unknown)) for name in _PER_STEP}
    variables |= {name: (("step", "layer"), steps.get(name, np.empty((0, len(layers))))) for name in _PER_LAYER}
    variables |= {name: ("epoch", values) for name, values in epochs.items() if name not in ("step", "epoch")}
    answer = xr.Dataset(variables)
    for name in answer.data_vars:
        answer[name].attrs["units"] = "nats" if str(name).endswith("loss") else "1"
    return answer.assign_coords(
        step=("step", _whole(steps, "step"), {"units": "optimizer updates"}),
        epoch=("epoch", _whole(epochs, "epoch")),
        layer=("layer", layers),
    )


def flow_of(rows: Rows, layers: list[str], flow: Flow) -> xr.Dataset:
    """Put together what was seen to flow through the network.

    Args:
        rows: With the table "flow".
        layers: The names of the weights, whose gradients' signs were looked at.
        flow: What has watched, for the names.

    Returns:
        Dims (flow_step, module, activation, bin, layer), and `gradient_slope`, the slope of log10 of the norm of the
        back-propagated gradient a layer on its way from the loss to the input.
    """
    table = rows.table("flow")
    if not table:
        return xr.Dataset()
    depth = np.array([flow.depth.get(name, -1) for name in flow.layers], dtype=np.int64)
    variables: dict[str, Any] = {name: (("flow_step", "module"), table[name]) for name in _PER_MODULE}
    variables |= {name: (("flow_step", "activation"), table[name]) for name in _PER_ACTIVATION}
    return xr.Dataset(
        {
            **variables,
            "histogram": (("flow_step", "activation", "bin"), table["histogram"]),
            **{name: (("flow_step", "layer"), table[name]) for name in ("gradient_magnitude", "sign_coherence")},
            "depth": ("module", depth),
            "gradient_slope": ("flow_step", depth_slope(table["backpropagated_norm"], depth)),
        },
        {
            "flow_step": ("flow_step", _whole(table, "step"), {"units": "optimizer updates"}),
            "module": ("module", np.array(flow.layers, dtype=str)),
            "activation": ("activation", np.array(flow.activations, dtype=str)),
            "layer": ("layer", np.array(layers, dtype=str)),
        },
    )


def restore_flow(rows: Rows, sealed: xr.Dataset) -> None:
    """Write what a sealed `training` says of the flow back into rows."""
    if "flow_step" not in sealed.dims:
        return
    order = np.argsort(sealed["depth"].values)
    by_depth = [str(sealed["module"].values[index]) for index in order if sealed["depth"].values[index] >= 0]
    names = {"activations": [str(name) for name in sealed["activation"].values], "by_depth": by_depth}
    first = sealed["flow_step"].values[:1]
    rows.append("places", {"step": first, "names": json.dumps(names)})
    kept = {str(n): v.values for n, v in sealed.variables.items() if v.dims[:1] == ("flow_step",)}
    del kept["gradient_slope"]
    rows.append("flow", {"step": kept.pop("flow_step"), **kept})


def trajectory_of(rows: Tables, layout: ParameterLayout) -> xr.Dataset:
    """Put together the snapshots.

    Returns:
        `theta` (snapshot, parameter) in the order of the layout, which the attribute `layout` spells out in JSON;
        coordinates `step` and `epoch` (whole epochs done) by snapshot.
    """
    snapshots = rows.table("snapshot")
    shapes = {"names": layout.names, "shapes": [list(shape) for shape in layout.shapes]}
    theta = snapshots.get("theta", np.empty((0, layout.size), np.float32))
    return xr.Dataset(
        {"theta": (("snapshot", "parameter"), theta)},
        {name: ("snapshot", _whole(snapshots, name)) for name in ("step", "epoch")},
        {"layout": json.dumps(shapes)},
    )


def join_steps(answers: Mapping[int, xr.Dataset]) -> xr.Dataset:
    """Put the answers of several steps together along a leading axis `step`."""
    joined = xr.concat(
        list(answers.values()),
        xr.Variable("step", np.array(list(answers)), {"units": "optimizer updates"}),
        data_vars="all",
        coords="minimal",
        compat="override",
        join="outer",
        combine_attrs="drop_conflicts",
    )
    return joined.transpose("step", ...)


def restore_training(rows: Rows, sealed: xr.Dataset) -> None:
    """Write a sealed `training` back into rows."""
    if not sealed.sizes["step"]:
        return
    rows.append("step", {str(n): v.values for n, v in sealed.variables.items() if v.dims[:1] == ("step",)})
    epochs = {str(n): v.values for n, v in sealed.variables.items() if v.dims == ("epoch",)}
    if len(epochs["epoch"]):
        ends = [sealed["step"].values[sealed["epoch_of_step"].values <= e].max(initial=0) for e in epochs["epoch"]]
        rows.append("epoch", {**epochs, "step": np.array(ends)})
    restore_flow(rows, sealed)


def restore_trajectory(rows: Rows, sealed: xr.Dataset) -> None:
    """Write a sealed `trajectory` back into rows."""
    rows.append("snapshot", {name: sealed[name].values for name in ("step", "epoch", "theta")})


def _whole(columns: Columns, name: str) -> np.ndarray:
    return columns.get(name, np.empty(0)).astype(np.int64)
