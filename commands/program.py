"""The program: its errors, how it is stopped, its progress, and the group of its commands."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import click

from landscape.text import clean

# Exit codes; click's 2 is for wrong usage, and errors of the store bring their own, such as 75 for a locked run.
DONE, BAD_INPUT, DAMAGED, FAILED = 0, 3, 4, 5


class Failure(click.ClickException):
    """An error a user can act on: one clear line, and an exit code that says which kind it is."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(clean(" ".join(message.split()), limit=2000))
        self.exit_code = exit_code


class Stopped(KeyboardInterrupt):
    """A signal asked us to stop."""

    def __init__(self, signum: int):
        self.signum = signum


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Turn the first SIGINT or SIGTERM into `Stopped`; a second one ends the process at once."""
    received: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for each in handlers:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(signum)

    is_main = threading.current_thread() is threading.main_thread()
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM) if is_main}
    for signum in handlers:
        signal.signal(signum, stop)
    try:
        yield received
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def failure_of(error: Exception) -> Failure:
    """Give an error of the library its exit code; those of the store carry their own.

    What is wrong with the input is a ValueError, TypeError, OSError or ImportError; any other error came while
    computing, such as memory that ran out or a Hessian product that is not finite.
    """
    hint = " (--debug shows where)" if isinstance(error, TypeError) else ""
    code = FAILED if isinstance(error, RuntimeError | MemoryError) else BAD_INPUT
    return Failure(f"{str(error) or type(error).__name__}{hint}", getattr(error, "exit_code", code))


class Landscape(click.Group):
    """The program: every mistake of a user becomes one line, every stop says how to go on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let --debug stand anywhere, for who adds it to a command that failed."""
        others = [argument for argument in args if argument != "--debug"]
        return super().parse_args(ctx, others if len(others) == len(args) else ["--debug", *others])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and translate what it raises."""
        with stopping() as received:
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit):
                raise
            # Lightning turns an interrupt into SystemExit(1), so the signal and not the exception decides.
            except BaseException as error:
                if received:
                    raise Failure(_how_to_go_on(received[0]), 128 + received[0]) from error
                known = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)
                if ctx.params["debug"] or not isinstance(error, known):
                    raise
                raise failure_of(error) from error


def _how_to_go_on(signum: int) -> str:
    command = shlex.join(["landscape", *sys.argv[1:]])
    return f"stopped by {signal.Signals(signum).name}; what is finished is saved. To go on: {command}"


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield what draws a bar a stage, with the time left; None where no terminal is watching."""
    if not sys.stderr.isatty():
        yield None
        return
    bars: dict[str, Any] = {}
    reached: dict[str, int] = {}
    with ExitStack() as stack:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                # What was saved earlier took no time now, so it would spoil the estimate of what is left.
                saved = f", {done} saved before" if done else ""
                bar = click.progressbar(
                    length=total - done,
                    label=f"{label}: {stage}{saved}",
                    file=sys.stderr,
                    show_pos=True,
                    update_min_steps=max(1, total // 500),
                )
                bars[stage], reached[stage] = stack.enter_context(bar), done
            bars[stage].update(done - reached[stage])
            reached[stage] = done

        yield advance


@click.group(
    cls=Landscape,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
)
@click.version_option(package_name="landscape-lab", prog_name="landscape")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Loss landscapes, curvature and training dynamics of neural networks.

    A RUN is a folder under results/. Interrupt any command at any moment and give it again: it goes on where it
    stopped, and what is finished is never computed twice.
    """
