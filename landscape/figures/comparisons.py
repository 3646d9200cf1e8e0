"""Which surfaces of several runs answer the same question, and what the runs differ in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.panels import MOST_PANELS, contours_side_by_side, surfaces_side_by_side
from landscape.figures.style import Width
from landscape.text import clean

_MOST_WORDS = 40  # characters of a title over a panel
# What makes two answers comparable: the question, and how the network was evaluated; not which network or data.
_QUESTION = ("probe_class", "probe", "probe_fields", "parameters", "normalization")


@dataclass(frozen=True)
class Asked:
    """The surface of one run."""

    run: str
    answer: xr.Dataset


def question_of(answer: xr.Dataset) -> str:
    """What was asked, in twelve letters that are equal for equal questions to different networks."""
    text = json.dumps({key: str(answer.attrs.get(key, "")) for key in _QUESTION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def labels_of(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A title for each run, from the fields of its configuration in which the runs differ.

    >>> labels_of({"a": {"skip": True, "lr": 0.1}, "b": {"skip": False, "lr": 0.1}})
    ['skip', 'no skip']
    >>> labels_of({"a": {"batch_size": 32}, "b": {"batch_size": 4096}})
    ['batch size 32', 'batch size 4,096']

    Args:
        configs: By the name of each run, what it was trained with. Where that tells no runs apart, or takes too many
            words, the names do.

    Returns:
        A label a run, in their order.
    """
    names = list(dict.fromkeys(name for config in configs.values() for name in config))
    absent = object()
    differing = [n for n in names if len({repr(config.get(n, absent)) for config in configs.values()}) > 1]
    labels = [
        ", ".join(_said(name, config[name]) for name in differing if name in config) for config in configs.values()
    ]
    is_telling = all(label and len(label) <= _MOST_WORDS for label in labels) and len(set(labels)) == len(labels)
    return labels if is_telling else [clean(name, 60) for name in configs]


def draw_side_by_side(
    surfaces: Sequence[Asked], configs: Mapping[str, Mapping[str, Any]], width: Width = "double"
) -> dict[str, Figure]:
    """Panels of the surfaces of several runs that answer equal questions, as contours and in 3D.

    Args:
        surfaces: Surfaces of runs, of any number of questions.
        configs: What each run was trained with, by its name.
        width: How many columns of a paper a figure fills.

    Returns:
        Figures by names that fit into file names: `surface-<question>-side-by-side`, `...-side-by-side-3d`.

    Raises:
        ValueError: If no question was answered by two runs, or one by more runs than panels fit a figure.
    """
    asked: dict[str, dict[str, xr.Dataset]] = {}
    for surface in surfaces:
        asked.setdefault(question_of(surface.answer), {})[surface.run] = surface.answer
    shared = {question: answers for question, answers in asked.items() if len(answers) > 1}
    if not shared:
        raise ValueError(
            "expected surfaces of at least two runs with the same options; found none. "
            "Ask all runs with one command: landscape probe surface RUN RUN"
        )
    figures = {}
    for question, answers in shared.items():
        if len(answers) > MOST_PANELS:
            raise ValueError(f"expected at most {MOST_PANELS} runs side by side; got {len(answers)}; name fewer")
        labels = labels_of({run: configs.get(run, {}) for run in answers})
        together = list(answers.values())
        name = f"surface-{question}-side-by-side"
        figures[name] = contours_side_by_side(together, labels, width=width)
        figures[f"{name}-3d"] = surfaces_side_by_side(together, labels, width=width)
    return figures


def _said(name: str, value: object) -> str:
    words = clean(name, 30).replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if isinstance(value, int | float):
        return f"{words} {value:,}"
    return f"{words} {clean(value, 30)}"
