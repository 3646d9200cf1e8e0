"""One seam for independent work, `concurrent.futures.Executor`, and a map over it that can be resumed."""

from landscape.execution.engines import SerialExecutor, open_executor
from landscape.execution.mapping import LostWorkError, resumable_map
from landscape.execution.work import (
    Journal,
    Progress,
    Work,
    num_workers,
    progress_within,
    quiet_progress,
    recalled,
    remember,
    remembered,
    report_progress,
    wanted_threads,
    working,
)
from landscape.execution.worker import Answer

__all__ = [
    "Answer",
    "Journal",
    "LostWorkError",
    "Progress",
    "SerialExecutor",
    "Work",
    "num_workers",
    "open_executor",
    "progress_within",
    "quiet_progress",
    "recalled",
    "remember",
    "remembered",
    "report_progress",
    "resumable_map",
    "wanted_threads",
    "working",
]
