"""A map over independent pieces that can be resumed, on any executor."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from landscape.execution.engines import Engine, SerialExecutor, engine_of
from landscape.execution.tiles import Tile, Tiles
from landscape.execution.work import Work, current_work
from landscape.execution.worker import Answer, Finished, Parcel, Undelivered, compute_chunk
from landscape.store.disk import PARTIAL, explained

_LOOK = 1.0  # seconds after which a wait looks whether there is anybody to wait for

Pieces = list[tuple[str, Answer]]


class LostWorkError(RuntimeError):
    """Pieces that killed every worker which computed them; all others are finished and journalled.

    Attributes:
        places: Their numbers among the items of the map.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(_which_killed(keys))
        self.places = [int(key.rpartition("/")[2]) for key in keys]


def resumable_map(
    function: Callable[[Any, Any], Answer], shared: Any, items: Sequence[Any], stage: str = "point"
) -> list[Answer]:
    """Compute function(shared, item) for every item, in order of the items.

    Pieces that the journal of the current `working` context holds are not computed again; every new one is
    journalled as it arrives. Outside such a context everything is computed here.

    Args:
        function: A module-level function; its answer depends on its arguments alone.
        shared: What all items need, sent once to each process.
        items: Small things that can be sent.
        stage: Names these pieces in the journal and the progress display.

    Raises:
        ValueError: If `shared` cannot be sent to another process.
        TypeError: If an answer is not a dict of numbers.
        LostWorkError: If a piece kills every worker that computes it, after all others were finished.
        RuntimeError: If the cluster is lost.
    """
    work = current_work() or Work(SerialExecutor())
    stage = work.open_stage(stage)
    keys = [f"{stage}/{number}" for number in range(len(items))]
    known = work.journal.records() if work.journal else {}
    found: dict[str, Answer] = {key: known[key] for key in keys if key in known}
    work.report(stage, len(found), len(keys))
    todo = [(key, item) for key, item in zip(keys, items, strict=True) if key not in found]
    with closing(_computed(work, function, shared, todo)) as computed:
        for pieces in computed:
            _keep(work, pieces)
            found.update(pieces)
            work.report(stage, len(found), len(keys))
    return [found[key] for key in keys]


def _keep(work: Work, pieces: Pieces) -> None:
    """Journal what one task has found, and wait for the disk once."""
    for key, answer in pieces:
        if not isinstance(answer, dict):
            raise TypeError(
                f"a piece of work must answer with a dict of numbers such as {{'loss': 0.5}}, "
                f"got {type(answer).__name__}."
            )
        if work.journal:
            work.journal.append(key, answer, sync=key == pieces[-1][0])


def _computed(
    work: Work, function: Callable[[Any, Any], Answer], shared: Any, todo: Sequence[tuple[str, Any]]
) -> Generator[Pieces]:
    if isinstance(work.executor, SerialExecutor):
        for key, item in todo:
            yield [(key, function(shared, item))]
        return
    engine = engine_of(work.executor)
    with _parcel(function, shared, work.scratch) as parcel:
        tiles = Tiles(todo, engine.num_workers)
        for tile, finished in _finished(engine, parcel, tiles):
            work.remote_passes += finished.passes
            yield [(key, answer) for (key, _), answer in zip(tile.pieces, finished.answers, strict=True)]
    if tiles.given_up:
        raise LostWorkError(tiles.given_up)


def _finished(engine: Engine, parcel: Parcel, tiles: Tiles) -> Iterator[tuple[Tile, Finished]]:
    """Keep a few tasks in flight and yield each as it ends; what a lost worker was at is done again."""
    running: dict[Future, Tile] = {}
    try:
        _fill(running, engine, parcel, tiles)
        while running:
            engine.require_alive()
            finished, failure = [], None
            for future in wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED).done:
                tile = running.pop(future)
                try:
                    answer = _outcome(engine, parcel, tiles, tile, future)
                except Exception as error:
                    failure = failure or error
                else:
                    finished += [(tile, answer)] if answer else []
            if failure is None:
                _fill(running, engine, parcel, tiles)  # first, so that no worker waits until all is journalled
            yield from finished
            if failure:
                raise failure
    finally:
        for future in running:
            future.cancel()


def _fill(running: dict[Future, Tile], engine: Engine, parcel: Parcel, tiles: Tiles) -> None:
    while len(running) < engine.num_in_flight and (tile := tiles.take(alone=not running)):
        running[engine.submit(compute_chunk, parcel, [item for _, item in tile.pieces])] = tile


def _outcome(engine: Engine, parcel: Parcel, tiles: Tiles, tile: Tile, future: Future) -> Finished | None:
    """What a task answered; None if it has to be done again."""
    try:
        answer: Finished | Undelivered = future.result()
    except Exception as error:
        if not (deaths := engine.deaths(error)):
            raise
        tiles.put_back(tile, deaths)
        return None
    if isinstance(answer, Undelivered):
        engine.deliver(parcel, answer.worker)
        tiles.put_back(tile)
        return None
    tiles.measure(tile, answer.seconds)
    return answer


def _which_killed(keys: Sequence[str]) -> str:
    stage, names = keys[0].rpartition("/")[0], [key.rpartition("/")[2] for key in keys]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"stage {stage!r}, item {', '.join(names[:5])}{more}: every worker that computed it died, as from too little "
        "memory or a crash in native code. All other items are finished and saved; mend the cause and run the same "
        "command again, which computes only what is missing."
    )


@contextmanager
def _parcel(function: Any, shared: Any, scratch: Path | None) -> Iterator[Parcel]:
    """Write what all pieces need where the workers read it, for nobody else's eyes."""
    try:
        content = pickle.dumps((function, shared))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"this work cannot be sent to other processes ({error}); define the model and the loss at the top level "
            "of a module (no lambda), or use the serial executor."
        ) from error
    with tempfile.NamedTemporaryFile(prefix=".shared-", suffix=PARTIAL, dir=scratch) as file:
        path = Path(file.name).absolute()
        with explained(path):
            file.write(content)
            file.flush()
        yield Parcel(str(path), hashlib.sha256(content).hexdigest())
