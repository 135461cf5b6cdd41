"""The `irr` script: interrupts at any moment of a start."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from irr import cli
from irr.errors import EncoderError, OutputError

INTERRUPT = "import signal\nsignal.raise_signal(signal.SIGINT)\n"
# What extension modules make of an interrupt that comes while they are imported.
SWALLOWED = """\
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    pass
raise ImportError("cannot load")
"""
Start = Callable[[str], int]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run a command whose module holds this."""

    def run(body: str) -> int:
        (tmp_path / "irr_test_command.py").write_text(body)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setitem(cli.COMMANDS, "test", ("irr_test_command:main", "a test"))
        return cli.main(["test"])

    return run


@pytest.mark.parametrize("body", [INTERRUPT, SWALLOWED])
def test_an_interrupt_while_a_command_is_imported_is_one_line(
    start: Start, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert start(body) == 130
    assert capsys.readouterr().err == "irr: interrupted\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_import_that_fails_without_an_interrupt_says_so(start: Start) -> None:
    with pytest.raises(ImportError, match="cannot load"):
        start("raise ImportError('cannot load')")


def test_interrupts_that_are_ignored_stay_so(start: Start) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert start(f"{INTERRUPT}main = len") == 0
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted_and(error: Exception) -> int:
    """Run a command in which something makes an ImportError of an interrupt, and more of that."""

    def command(_: argparse.Namespace) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise error

    return cli.run_command(command, argparse.Namespace(debug=False))


def test_an_interrupt_that_an_import_swallowed_ends_the_command_as_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = EncoderError("cannot be imported")
    error.__cause__ = ImportError("numpy")
    assert interrupted_and(error) == 130
    assert capsys.readouterr().err == "irr: interrupted\n"


def test_another_error_after_an_interrupt_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupted_and(OutputError("disk full")) == OutputError.exit_status
    assert "disk full" in capsys.readouterr().err


def test_an_earlier_interrupt_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    interrupted_and(OutputError("disk full"))

    def command(_: argparse.Namespace) -> int:
        raise ImportError("no such module")

    assert cli.run_command(command, argparse.Namespace(debug=False)) == cli.BUG
    assert "no such module" in capsys.readouterr().err
