"""Folders that commands read and write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.program import BAD_INPUT, Failure

if TYPE_CHECKING:
    from landscape import Store
    from landscape.store import StoreError

OF_SEVERAL_RUNS = (  # how the names of answers begin that are not about one run
    "barrier-matrix-",
    "connection-",
    "curve-plane-",
    "distances-",
    "double-descent-",
    "effects-",
    "ensemble-",
    "fork-",
    "lr-range-",
    "race-",
    "search-",
    "sharpness-report-",
    "swa-",
    "sweep-",
)


def told_apart(runs: tuple[Path, ...]) -> list[str]:
    """Name runs by their folders below the one that holds them all."""
    home = os.path.commonpath([run.absolute().parent for run in runs])
    return [run.absolute().relative_to(home).as_posix() for run in runs]


def readable(folder: Path, damaged: list[StoreError]) -> Iterator[tuple[str, Any]]:
    """Yield the answers of a run by name; what cannot be read is added to `damaged`."""
    from landscape.store import StoreError

    store = open_store(folder)
    for name in store.names():
        try:
            answer = store.read(name)
        except StoreError as error:
            damaged.append(error)
            continue
        yield name, answer


def common_folder(runs: Iterable[Path]) -> Path:
    """Find the folder that holds all these runs."""
    return Path(os.path.commonpath([folder.absolute() for folder in runs]))


def refuse_twice(runs: Sequence[Path]) -> None:
    """Refuse a run that is named twice."""
    if twice := [run for run in runs if runs.count(run) > 1]:
        raise Failure(f"run {twice[0]} is there twice; name each run once", BAD_INPUT)


def open_store(folder: Path) -> Store:
    """Open the folder of a run to read what is there."""
    from landscape import Store

    return Store(folder, create=False)


def new_store(folder: Path) -> Store:
    """Make a folder to write an answer into."""
    from landscape import Store

    return Store(folder)


def run_folders(folder: Path, alone: bool = False) -> list[Path]:
    """List the folders at or below one that hold a run or answers, sorted by name.

    The runs of a sweep are left out: its own folder stands for all of them.

    Args:
        folder: Where to look.
        alone: Leave out what is not about one run: folders that hold nothing but reports over several, ensembles,
            searches, comparisons of averages or races.
    """
    from landscape.sweeps import files_outside_sweeps

    if not folder.is_dir():
        raise Failure(
            f"{folder} is not a folder; give the folder that holds your runs, for example results/", BAD_INPUT
        )
    files = [path for path in files_outside_sweeps(folder) if path.name == "run.json" or path.suffix == ".h5"]
    return sorted({path.parent for path in files if not (alone and path.name.startswith(OF_SEVERAL_RUNS))})


def overviews(folder: Path, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Collect the rows of the runs in a folder."""
    from landscape.overview import overview

    return [overview(open_store(run), run.relative_to(folder).as_posix()) for run in runs]
