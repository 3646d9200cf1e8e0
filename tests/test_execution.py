from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landscape.execution import (
    LostWorkError,
    SerialExecutor,
    Work,
    open_executor,
    quiet_progress,
    report_progress,
    resumable_map,
    working,
)
from landscape.execution.worker import Finished
from landscape.objective import Objective
from landscape.probes import Slice, Surface
from landscape.store import Journal, Store
from landscape.store.disk import PARTIAL
from tests.problems import TinyCNN, built, images


@dataclass
class Notebook:
    """A journal in memory."""

    pages: dict = field(default_factory=dict)

    def records(self):
        return dict(self.pages)

    def append(self, key, arrays, sync=True):
        self.pages[key] = dict(arrays)


class Interrupted(BaseException):
    pass


@dataclass
class Counting:
    """Squares numbers, counts its calls and stops at the n-th."""

    stop_at: int | None = None
    calls: list = field(default_factory=list)

    def __call__(self, shared, item):
        if len(self.calls) == self.stop_at:
            raise Interrupted
        self.calls.append(item)
        return {"value": shared * item**2}


def squared(shared, item):
    return {"value": shared * item**2, "worker": os.getpid(), "threads": torch.get_num_threads()}


def failing(shared, item):
    if item == 3:
        raise ArithmeticError(f"no answer to {item}")
    return {"value": item}


def cnn(loss=F.cross_entropy) -> Objective:
    return Objective(built(TinyCNN), images(), loss=loss)


@pytest.fixture(scope="module")
def processes():
    with open_executor("processes:2") as executor:
        yield executor


def test_a_map_outside_of_any_context_computes_here_in_order():
    assert resumable_map(Counting(), 2, [3, 1, 2]) == [{"value": 18}, {"value": 2}, {"value": 8}]


def test_pieces_are_journalled_as_they_come_and_reported():
    notebook, seen = Notebook(), []
    with working(Work(SerialExecutor(), notebook, lambda *progress: seen.append(progress))):
        resumable_map(Counting(), 1, [5, 6], stage="corner")
    assert notebook.pages == {"corner/0": {"value": 25}, "corner/1": {"value": 36}}
    assert seen == [("corner", 0, 2), ("corner", 1, 2), ("corner", 2, 2)]


@pytest.mark.parametrize("stop_at", [0, 1, 3, 4])
def test_an_interrupted_map_computes_only_the_rest(stop_at, tmp_path):
    items = [1.5, math.pi, 1e-300, float("inf"), 2.0]
    whole = resumable_map(Counting(), 0.1, items)
    first, second = Counting(stop_at), Counting()
    for function in (first, second):
        with Journal(tmp_path / "x.journal") as journal, working(Work(SerialExecutor(), journal)):
            if function is first:
                with pytest.raises(Interrupted):
                    resumable_map(function, 0.1, items)
            else:
                resumed = resumable_map(function, 0.1, items)
    assert first.calls == items[:stop_at]
    assert second.calls == items[stop_at:]
    assert resumed == whole


def test_values_that_are_not_numbers_survive_the_journal(tmp_path):
    def strange(_, item):
        return {"loss": [float("nan"), float("inf"), -0.0][item]}

    with Journal(tmp_path / "x.journal") as journal, working(Work(SerialExecutor(), journal)):
        first = resumable_map(strange, None, range(3))
    with Journal(tmp_path / "x.journal") as journal, working(Work(SerialExecutor(), journal)):
        again = resumable_map(Counting(stop_at=0), None, range(3))
    assert np.array_equal([a["loss"] for a in first], [a["loss"] for a in again], equal_nan=True)
    assert math.copysign(1, again[2]["loss"]) == -1


def test_quiet_progress_ends_with_its_context_also_after_an_exception():
    seen = []
    with working(Work(SerialExecutor(), progress=lambda *step: seen.append(step))):
        with pytest.raises(Interrupted), quiet_progress():
            report_progress("inside", 1, 2)
            raise Interrupted
        report_progress("outside", 1, 2)
    with quiet_progress():
        report_progress("nobody watches", 1, 2)
    assert seen == [("outside", 1, 2)]


def test_two_maps_of_one_probe_do_not_take_each_others_pieces():
    notebook = Notebook()
    for _ in range(2):  # the second time from the journal
        with working(Work(SerialExecutor(), notebook)):
            assert resumable_map(Counting(), 1, [2]) == [{"value": 4}]
            assert resumable_map(Counting(), 1, [3]) == [{"value": 9}]
    assert sorted(notebook.pages) == ["point-2/0", "point/0"]


def test_the_context_ends_also_after_an_exception():
    notebook = Notebook()
    with pytest.raises(Interrupted), working(Work(SerialExecutor(), notebook)):
        resumable_map(Counting(stop_at=1), 1, [1, 2])
    resumable_map(Counting(), 1, [1, 2, 3])
    assert list(notebook.pages) == ["point/0"]


def test_a_serial_executor_is_an_executor():
    with SerialExecutor() as executor:
        assert executor.submit(pow, 2, 3).result() == 8
        assert list(executor.map(abs, [-1, 2])) == [1, 2]
        with pytest.raises(ArithmeticError, match="no answer to 3"):
            executor.submit(failing, None, 3).result()
        with pytest.raises(Interrupted):
            executor.submit(Counting(stop_at=0), 1, 1)


# --- other processes ----------------------------------------------------------------------------------------------


def test_processes_compute_elsewhere_with_one_thread_each(processes):
    with working(Work(processes)):
        answers = resumable_map(squared, 2, range(20))
    assert [a["value"] for a in answers] == [2 * n**2 for n in range(20)]
    assert os.getpid() not in {a["worker"] for a in answers}
    assert {a["threads"] for a in answers} == {1}


def test_processes_give_the_same_bits(processes):
    objective = cnn()
    serial = Surface(resolution=(5, 4), seeds=2)(objective)
    with working(Work(processes)) as work:
        before = objective.num_passes
        parallel = Surface(resolution=(5, 4), seeds=2)(objective)
    assert parallel.identical(serial)
    assert work.remote_passes == 40
    assert objective.num_passes - before == 1  # the centre


def test_pieces_of_processes_are_journalled(processes):
    notebook = Notebook()
    with working(Work(processes, notebook)):
        answer = Slice(resolution=11)(cnn())
    with working(Work(SerialExecutor(), notebook)):
        again = Slice(resolution=11)(cnn())
    assert len(notebook.pages) == 11  # the plan and ten points; the centre is the checkpoint itself
    assert again.identical(answer)


def test_a_failure_in_a_process_comes_home_and_keeps_what_was_done(processes):
    notebook = Notebook({f"point/{n}": {"value": n} for n in range(3)})
    with pytest.raises(ArithmeticError, match="no answer to 3"), working(Work(processes, notebook)):
        resumable_map(failing, None, range(30))
    assert all(notebook.pages[f"point/{n}"] == {"value": n} for n in range(3))
    assert "point/3" not in notebook.pages


def test_a_lambda_cannot_be_sent(processes):
    objective = cnn(loss=lambda output, target: F.cross_entropy(output, target))
    message = r"cannot be sent to other processes .* \(no lambda\), or use the serial"
    with pytest.raises(ValueError, match=message), working(Work(processes)):
        Slice(resolution=3)(objective)


def test_an_objective_that_was_sent_is_the_same():
    objective = cnn()
    copy = pickle.loads(pickle.dumps(objective))  # noqa: S301
    assert copy.loss().item() == objective.loss().item()
    assert copy.identity() == objective.identity()


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dask", "dask:", "processes:0", "processes:two", "serial:2", "", "threads"])
def test_unknown_executors(name):
    with (
        pytest.raises(ValueError, match="executor must be serial, processes, processes:N or dask:"),
        open_executor(name),
    ):
        pass


def test_executors_by_name():
    with open_executor() as executor:
        assert isinstance(executor, SerialExecutor)
    with open_executor("processes") as executor:
        assert executor.num_workers == os.cpu_count()


def test_an_answer_is_a_dict():
    with pytest.raises(TypeError, match="must answer with a dict of numbers such as {'loss': 0.5}, got float"):
        resumable_map(lambda _, item: 0.5, None, [1])


def slow(_shared, item):
    time.sleep(20)
    return {"value": float(item)}


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal; a shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_does_not_wait_for_slow_pieces(interruptible):
    alarm = threading.Timer(3, os.kill, (os.getpid(), signal.SIGINT))
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_executor("processes:1") as pool, working(Work(pool)):
        alarm.start()
        resumable_map(slow, None, range(8))
    # Whoever waits for the piece that is being computed needs 20 s.
    assert time.monotonic() - started < 7


def folder_of_the_shared_file(_shared, item):
    return {"there": float(len(list(Path(item).glob(".shared-*"))))}


def test_what_is_sent_lies_in_the_scratch_folder_and_is_removed(tmp_path):
    with open_executor("processes:1") as pool, working(Work(pool, scratch=tmp_path)):
        assert resumable_map(folder_of_the_shared_file, None, [str(tmp_path)]) == [{"there": 1.0}]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_by_the_run(tmp_path):
    left = tmp_path / f".shared-x{PARTIAL}"
    left.touch()
    with Store(tmp_path).lock():
        assert not left.exists()


# --- processes that die ------------------------------------------------------------------------------------------


def slowly(_shared, item):
    time.sleep(0.05)
    return {"value": float(item), "worker": os.getpid()}


def poisoned(_shared, item):
    if item == 3:
        os._exit(1)
    return slowly(None, item)


def test_the_work_goes_on_when_both_processes_are_killed_one_after_the_other():
    notebook, killed = Notebook(), []

    def kill(stage, done, total):
        alive = sorted({page["worker"] for page in notebook.pages.values()} - set(killed))
        if alive and done >= (5, 15, math.inf)[len(killed)]:
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    with open_executor("processes:2") as pool, working(Work(pool, notebook, kill)):
        answers = resumable_map(slowly, None, range(40))
    assert [a["value"] for a in answers] == [float(n) for n in range(40)]
    assert len(killed) == 2
    assert not set(killed) & {a["worker"] for a in answers[-10:]}


@pytest.mark.slow
def test_an_item_that_kills_its_process_is_named_after_all_others_are_done():
    notebook, message = Notebook(), "stage 'corner', item 3: every worker that computed it died"
    with (
        pytest.raises(LostWorkError, match=message) as lost,
        open_executor("processes:2") as pool,
        working(Work(pool, notebook)),
    ):
        resumable_map(poisoned, None, range(20), stage="corner")
    assert lost.value.places == [3]
    assert set(notebook.pages) == {f"corner/{n}" for n in range(20)} - {"corner/3"}
    with working(Work(SerialExecutor(), notebook)):
        assert len(resumable_map(slowly, None, range(20), stage="corner")) == 20
    assert notebook.pages["corner/3"]["worker"] == os.getpid()


def test_a_pool_that_somebody_else_opened_is_theirs_to_mend():
    spawn = multiprocessing.get_context("spawn")
    with (
        pytest.raises(BrokenExecutor, match="terminated abruptly"),
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
        working(Work(pool)),
    ):
        resumable_map(poisoned, None, [3])


def test_what_a_task_finished_is_kept_when_another_fails_at_the_same_time():
    class Both(Executor):
        def submit(self, fn, parcel, items):
            future = Future()
            if items == [3]:
                future.set_exception(ArithmeticError("no answer"))
            else:
                future.set_result(Finished([{"value": 1.0} for _ in items], 0, 1.0))
            return future

    notebook = Notebook()
    with pytest.raises(ArithmeticError, match="no answer"), working(Work(Both(), notebook)):
        resumable_map(failing, None, [1, 3])
    assert notebook.pages == {"point/0": {"value": 1.0}}


def test_pieces_of_a_task_are_journalled_with_one_wait_for_the_disk(processes):
    class Slow(Notebook):
        waits = 0

        def append(self, key, arrays, sync=True):
            super().append(key, arrays)
            self.waits += sync

    notebook = Slow()
    with working(Work(processes, notebook)):
        resumable_map(squared, 1, range(2000))
    assert len(notebook.pages) == 2000
    assert notebook.waits < 100
