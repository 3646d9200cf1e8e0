from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from landscape.execution import (
    SerialExecutor,
    Work,
    cluster,
    num_workers,
    open_executor,
    resumable_map,
    worker,
    working,
)
from landscape.execution.cluster import run_guarded
from landscape.execution.engines import Processes
from landscape.execution.worker import Parcel
from landscape.probes import Slice, Surface
from landscape.store import Journal, Store
from tests.commands import TINY, environment, landscape, start
from tests.test_execution import Notebook, cnn, failing, poisoned, slowly, squared

distributed = pytest.importorskip("distributed")

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
CLUSTER = f"""
import os, sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, **{LOOPBACK}) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def local():
    """Two worker processes that each would take two tasks at a time."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, **LOOPBACK) as local:
        yield local


@pytest.fixture
def engine(local):
    with open_executor(f"dask:{local.scheduler_address}") as engine:
        local.wait_for_workers(2)
        yield engine


def listening(pid: int) -> set[str]:
    """Addresses that a process and its children listen on."""
    import psutil

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {c.laddr.ip for each in family for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN}


def test_a_local_cluster_listens_on_loopback_alone(engine):
    with working(Work(engine)):
        resumable_map(squared, 1, range(4))
    assert listening(os.getpid()) == {"127.0.0.1"}


def test_workers_compute_elsewhere_with_one_thread_each(local, engine):
    with distributed.Client(local, set_as_default=False) as client:  # others leave the threads of all workers at 3
        client.gather([client.submit(three_threads, n) for n in range(8)])
        assert set(client.gather([client.submit(threads_now, n) for n in range(8)])) == {3}
    with working(Work(engine)):
        assert num_workers() == 2
        answers = resumable_map(squared, 2, range(300))
    assert [a["value"] for a in answers] == [2 * n**2 for n in range(300)]
    assert len({a["worker"] for a in answers} - {os.getpid()}) == 2
    assert {a["threads"] for a in answers} == {1}


def three_threads(_):
    torch.set_num_threads(3)
    time.sleep(0.2)


def threads_now(_):
    time.sleep(0.2)
    return torch.get_num_threads()


_active: list[int] = []


def together(_shared, item):
    _active.append(item)
    time.sleep(0.02)
    number = len(_active)
    _active.remove(item)
    return {"together": number}


def test_a_worker_with_several_threads_computes_one_task_at_a_time(engine):
    with working(Work(engine)):
        assert {a["together"] for a in resumable_map(together, None, range(30))} == {1}


@pytest.mark.slow
def test_a_command_waits_for_the_first_worker_with_the_resources():
    with (
        distributed.LocalCluster(n_workers=0, threads_per_worker=1, resources={"GPU": 1}, **LOOPBACK) as late,
        open_executor(f"dask:{late.scheduler_address}?resources=GPU=1") as engine,
        working(Work(engine)),
    ):
        late.scale(1)  # the command came first and waits
        assert len({a["worker"] for a in resumable_map(squared, 1, range(3))}) == 1


def test_a_surface_has_the_same_bits(engine):
    objective = cnn()
    serial = Surface(resolution=(5, 4), seeds=2)(objective)
    with working(Work(engine)) as work:
        assert Surface(resolution=(5, 4), seeds=2)(objective).identical(serial)
    assert work.remote_passes == 40


class Torn(BaseException):
    pass


def torn_after(number: int):
    """Progress that ends the work once so many pieces are done."""

    def progress(stage, done, total):
        if done >= number:
            raise Torn

    return progress


def test_what_was_begun_serially_is_finished_on_dask_and_back(engine):
    whole, notebook = Slice(resolution=31)(cnn()), Notebook()
    with pytest.raises(Torn), working(Work(SerialExecutor(), notebook, torn_after(10))):
        Slice(resolution=31)(cnn())
    with pytest.raises(Torn), working(Work(engine, notebook, torn_after(15))):
        Slice(resolution=31)(cnn())
    assert 15 <= len(notebook.pages) < 31
    with working(Work(engine, notebook)):
        assert Slice(resolution=31)(cnn()).identical(whole)
    with working(Work(SerialExecutor(), notebook)) as work:
        assert Slice(resolution=31)(cnn()).identical(whole)
    assert work.remote_passes == 0


def test_a_failure_comes_home(engine):
    with pytest.raises(ArithmeticError, match="no answer to 3"), working(Work(engine)):
        resumable_map(failing, None, range(30))


# --- what workers cannot see ------------------------------------------------------------------------------------


class Nowhere:
    """Stands for a path on a machine that does not have the file."""

    def __init__(self, path):
        pass

    def read_bytes(self):
        raise FileNotFoundError


def hide_files():
    worker.Path = Nowhere


def show_files():
    from pathlib import Path

    worker.Path = Path


def counted_receive(digest, content):
    from landscape.execution.worker import receive

    receive(digest, content)
    counted_receive.number += 1


counted_receive.number = 0


def num_received():
    return counted_receive.number


def test_workers_that_cannot_read_our_files_get_the_bytes_once(local, engine, monkeypatch):
    monkeypatch.setattr(cluster, "receive", counted_receive)
    with distributed.Client(local, set_as_default=False) as client:
        client.run(hide_files)
        try:
            with working(Work(engine)):
                answers = resumable_map(squared, 3, range(300))
            received = client.run(num_received)
        finally:
            client.run(show_files)
    assert [a["value"] for a in answers] == [3 * n**2 for n in range(300)]
    assert list(received.values()) == [1, 1]


def test_another_file_of_the_same_name_is_not_taken(tmp_path):
    (tmp_path / "parcel").write_bytes(b"something else")
    answer = worker.compute_chunk(Parcel(str(tmp_path / "parcel"), "0" * 64), [1])
    assert answer == worker.Undelivered()


def test_our_own_processes_are_sent_no_bytes():
    with (
        Processes(1) as processes,
        pytest.raises(RuntimeError, match="cannot read /gone, which was removed or changed"),
    ):
        processes.deliver(Parcel("/gone", ""), "")


def test_a_class_that_workers_cannot_import_is_named():
    import pickle

    broken = pickle.dumps(cnn).replace(b"test_execution", b"test_exception")
    with pytest.raises(ImportError, match=r"a worker cannot import what this work needs .*test_exception"):
        worker._unpacked(broken)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_workers_of_other_versions_are_refused(local, monkeypatch):
    monkeypatch.setattr(cluster, "versions", lambda: {"landscape": "0.0.1", "torch": str(torch.__version__)})
    message = r"Dask worker tcp://127.0.0.1:\d+ has landscape .*, here it is 0.0.1; their numbers may differ"
    with pytest.raises(RuntimeError, match=message), open_executor(f"dask:{local.scheduler_address}"):
        pass


def test_a_worker_that_joins_later_is_checked_too(local):
    with distributed.Client(local, set_as_default=False) as client:
        task = client.submit(run_guarded, {"torch": "1.0"}, abs, -1, pure=False)
        with pytest.raises(RuntimeError, match=r"has torch .*, here it is 1.0"):
            task.result()


def test_a_worker_without_landscape_is_refused():
    with pytest.raises(RuntimeError, match=r"worker tcp://x:1 cannot import landscape \(No module named"):
        cluster._require_same({}, "No module named 'landscape'", "tcp://x:1")


def test_an_address_where_nobody_answers_is_refused_within_seconds(monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.5)
    message = "no Dask scheduler answers at tcp://127.0.0.1:1 .*; start one, or correct the address"
    with pytest.raises(ConnectionError, match=message), open_executor("dask:tcp://127.0.0.1:1"):
        pass


@pytest.mark.parametrize("address", ["head", "carrier-pigeon://head:8786"])
def test_what_is_no_address_is_refused(address):
    message = f"needs the address of a scheduler, such as dask:tcp://127.0.0.1:8786, got '{address}'"
    with pytest.raises(ValueError, match=message), open_executor(f"dask:{address}"):
        pass


@pytest.mark.parametrize("options", ["GPU=1", "resources=GPU", "resources=GPU=one", "resources=", "nthreads=2"])
def test_what_are_no_resources_is_refused(options):
    with pytest.raises(ValueError, match="may stand resources=GPU=1 or"), open_executor(f"dask:tcp://head:1?{options}"):
        pass


def test_resources_are_read():
    assert cluster._resources("resources=GPU=1,MEMORY=8e9") == {"GPU": 1, "MEMORY": 8e9}


def test_without_dask_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="pip install 'landscape-lab\\[dask\\]'"), open_executor("dask:tcp://head:1"):
        pass


def test_the_other_executors_do_not_import_dask():
    check = (
        "import sys, landscape.execution as e\nwith e.open_executor('processes:1'): print('distributed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- losses -------------------------------------------------------------------------------------------------------


def kill_once(notebook: Notebook, pieces: int) -> threading.Thread:
    """Kill -9 whoever computed the first piece, once so many are journalled."""

    def wait_and_kill():
        while len(notebook.pages) < pieces:
            time.sleep(0.01)
        os.kill(notebook.pages["point/0"]["worker"], signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_a_worker_that_is_killed_is_replaced(local, engine):
    notebook = Notebook()
    killer = kill_once(notebook, 5)
    with working(Work(engine, notebook)):
        answers = resumable_map(slowly, None, range(60))
    killer.join()
    assert [a["value"] for a in answers] == [float(n) for n in range(60)]
    local.wait_for_workers(2)  # the nanny has started another one


@pytest.mark.slow
def test_an_item_that_kills_is_named_after_all_others_are_done(local, engine, monkeypatch):
    monkeypatch.setattr(local.scheduler, "allowed_failures", 0)  # give up at once, also on innocent tasks beside it
    notebook = Notebook()
    with pytest.raises(RuntimeError, match="stage 'point', item 3: every worker"), working(Work(engine, notebook)):
        resumable_map(poisoned, None, range(20))
    assert set(notebook.pages) == {f"point/{n}" for n in range(20)} - {"point/3"}
    with working(Work(SerialExecutor(), notebook)):
        assert len(resumable_map(slowly, None, range(20))) == 20


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_work_and_keeps_what_is_finished():
    command = [sys.executable, "-c", CLUSTER]
    notebook = Notebook()
    with subprocess.Popen(
        command, env=environment(), stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as head:
        address = head.stdout.readline().strip()

        def lose(stage, done, total):
            if done >= 4 and head.poll() is None:
                head.kill()

        message = f"scheduler at {address} was lost or dropped our tasks; what is finished is saved"
        with pytest.raises(RuntimeError, match=message), open_executor(f"dask:{address}") as engine:
            assert listening(head.pid) == {"127.0.0.1"}
            with working(Work(engine, notebook, lose)):
                resumable_map(slowly, None, range(400))
    assert 4 <= len(notebook.pages) < 400


# --- the driver ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    done = landscape("train", *TINY, "--out", run)
    assert done.returncode == 0, done.stderr
    return run


def started(*arguments, run):
    """A command that has journalled points already."""
    process = start(*arguments)
    while process.poll() is None and not list(run.glob("*.journal")):
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_to_the_same_digest(local, trained, tmp_path):
    surface = ("probe", "surface", "--resolution", "25", "--batch-size", "64")
    whole, run = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, run):
        shutil.copytree(trained, folder)
    assert landscape(*surface, whole).returncode == 0
    on_dask = (*surface, run, "--executor", f"dask:{local.scheduler_address}")
    with started(*on_dask, run=run) as process:
        process.kill()
    (journal,) = run.glob("*.journal")
    assert 0 < len(Journal(journal).records()) < 25**2
    done = landscape(*on_dask)
    assert done.returncode == 0, done.stderr
    (name,) = Store(whole).names("surface-*")
    digests = {Store(folder).read(name).attrs["content_digest"] for folder in (whole, run)}
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("executor", ["dask", "processes:2"])
def test_a_signal_to_the_driver_ends_it_within_seconds_and_its_tasks_too(local, trained, tmp_path, number, executor):
    import psutil

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    name = f"dask:{local.scheduler_address}" if executor == "dask" else executor
    process = started("probe", "surface", "--resolution", "401", run, "--executor", name, run=run)
    while process.poll() is None and not any(len(Journal(path).records()) > 10 for path in run.glob("*.journal")):
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)  # all the points would take many minutes
    assert process.returncode == 128 + number, errors
    assert "To go on: landscape probe surface --resolution 401" in errors
    assert psutil.wait_procs(family, timeout=3)[1] == []
    deadline = time.monotonic() + 3
    while local.scheduler.tasks and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not local.scheduler.tasks
