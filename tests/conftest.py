"""Fixtures of all packages' tests."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.commands import Command, Told

# A shell's background job, and what nohup starts, hand down signals that are ignored; tests send them.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`mad` with the given words, in this process."""

    def cli(*words: object) -> Told:
        import mad.cli

        monkeypatch.setattr(sys, "argv", ["mad", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            mad.cli.main()
        return Told(int(end.value.code or 0), *capsys.readouterr())

    return cli
