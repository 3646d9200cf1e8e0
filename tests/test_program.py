"""The parts of the command line that every command shares: signals, progress, completion, loading, help."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from commands.options import options_of
from commands.program import Failure, Stopped, cli, failure_of, progress_bar, stopping
from landscape.store import DamagedFileError, LockedError, MissingError
from tests.commands import ROOT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_the_second_would_end_the_process(number):
    before = signal.getsignal(number)
    with stopping() as received:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)
        assert received == [number]
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_a_stop_that_lightning_turned_into_an_exit_is_still_a_stop(monkeypatch: pytest.MonkeyPatch):
    """Lightning answers an interrupt with sys.exit(1); our exit code must tell the signal all the same."""

    def interrupted(ctx: click.Context) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr(cli.commands["list"], "invoke", interrupted)
    monkeypatch.setattr(sys, "argv", ["landscape", "list", "a folder"])
    result = CliRunner().invoke(cli, ["list"])
    assert result.exit_code == 143
    assert "stopped by SIGTERM; what is finished is saved. To go on: landscape list 'a folder'" in result.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_a_stage_with_what_was_saved_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar("r0") as advance:
        for done in (30, 40, 100):
            advance("point", done, 100)
    drawn = sys.stderr.getvalue()
    assert "r0: point, 30 saved before" in drawn
    assert "70/70" in drawn


def test_progress_is_off_where_no_terminal_watches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar("r0") as advance:
        assert advance is None


@pytest.mark.parametrize(
    ("words", "start", "found"),
    [([], "pro", "probe"), (["probe"], "sur", "surface"), (["probe", "surface"], "--res", "--resolution")],
)
def test_the_shell_completes_commands_probes_and_options(words: list[str], start: str, found: str):
    items = ShellComplete(cli, {}, "landscape", "_LANDSCAPE_COMPLETE").get_completions(words, start)
    assert found in [item.value for item in items]


def test_every_command_explains_itself():
    for name in cli.commands:
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert cli.commands[name].help.split(".")[0].split()[0] in result.output


def test_both_ways_to_start_are_the_same():
    scripts = (ROOT / "pyproject.toml").read_text()
    assert 'landscape = "cli:main"' in scripts
    assert 'if __name__ == "__main__":\n    main()' in (ROOT / "cli.py").read_text()


@dataclass(frozen=True)
class Fields:
    """Fields of every kind.

    Attributes:
        number: A number.
        pair: One or two.
    """

    number: float
    pair: int | tuple[int, int] = 51
    skip: bool = True
    hidden: object = None
    group: str = field(default="a", metadata={"group": "Elsewhere", "help": "Grouped."})


def test_fields_become_options_with_type_default_and_group():
    number, pair, skip, group = options_of(Fields, "Here")
    assert (number.required, number.help, number.group) == (True, "A number.", "Here")
    assert pair.type.convert("9,7", pair, None) == (9, 7)
    assert pair.type.name == "int | int,int"
    assert (skip.opts, skip.secondary_opts) == (["--skip"], ["--no-skip"])
    assert (group.group, group.help, group.default) == ("Elsewhere", "Grouped.", "a")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("epochs"), 3),
        (TypeError("text"), 3),
        (FileNotFoundError("here"), 3),
        (ImportError("it"), 3),
        (RuntimeError("not finite"), 5),
        (MemoryError(), 5),
        (MissingError("it"), 3),
        (DamagedFileError("it"), 4),
        (LockedError("it"), 75),
    ],
)
def test_what_went_wrong_decides_the_exit_code(error: Exception, code: int):
    assert failure_of(error).exit_code == code


def test_a_failure_is_one_line_without_control_characters():
    assert Failure("a\x1b[2J\n  b", 3).format_message() == "a[2J b"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was used")

    for name in ("connect", "connect_ex", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, refuse)


def test_no_command_opens_a_port_or_calls_out(no_network: None, tmp_path: Path):
    tiny = ["--data", "digits", "--model", "mlp", "--epochs", "1", "--train-size", "64"]
    run = str(tmp_path / "run")
    for command in (
        ["train", *tiny, "--out", run],
        ["probe", "slice", run, "--resolution", "3"],
        ["figure", run, "--format", "png"],
        ["report", str(tmp_path), "--out", str(tmp_path / "report.html")],
        ["verify", run, "--k", "1", "--examples", "32"],
        ["doctor", run],
    ):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, (command, result.output)
