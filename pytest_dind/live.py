"""Progress where pytest reports: a live line on a terminal, one line per stage elsewhere; all workers' with xdist."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from typing import Any, TextIO, cast

import pytest

from . import progress, relay, workers
from .progress import Shown
from .screen import Screen, Writer
from .voices import Voices

#: pytest's verbosity with -qq, from which on nothing is shown.
_SILENT = -2


def show(config: pytest.Config) -> None:
    """Show what takes long from now on, in this process and, with xdist, in its workers; again is nothing more."""
    if not config.pluginmanager.has_plugin("dind-progress"):
        config.pluginmanager.register(Progress(config), "dind-progress")


class Progress:
    """Shows what takes long from now on, until pytest is unconfigured."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._process = os.getpid()
        self._undo = ExitStack()
        self._voices = Voices()
        self._lock = threading.Lock()
        self._screen: Screen | None = None
        config.add_cleanup(self.close)
        if workers.is_worker_process():
            # Known before `workerinput` is: with --dind-environ a worker's daemon starts before that.
            address = relay.address_of(workers.run_id(config), os.getppid())
            self._undo.callback(progress.listen(partial(relay.send, address, workers.worker_name())))
            return
        self._undo.callback(progress.listen(partial(self._hear, "")))
        verbosity = getattr(config.known_args_namespace, "verbose", 0)
        if config.pluginmanager.has_plugin("terminal") and verbosity > _SILENT:
            # As long as there is no reporter; pytest itself says on stderr what happens before.
            self._show_on(_uncaptured(config, "stderr"))

    def close(self) -> None:
        """Show nothing more; in a forked child that is its parent's business."""
        if os.getpid() != self._process:
            return
        self._undo.close()
        self._show_on(None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Take the reporter's terminal, and hear the workers that are about to be started."""
        if workers.is_worker_process():
            return
        self._show_on(_reporters(self.config))
        if workers.is_controller(self.config):
            address = relay.address_of(workers.run_id(self.config), os.getpid())
            with suppress(OSError):  # another user has taken the name: then nothing is shown of the workers
                receiver = relay.Receiver(address, self._hear, self._refresh)
                receiver.start()
                self._undo.callback(receiver.close)

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        """Show nothing more, and leave the reporter's writer as it was."""
        self.close()

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        if self._screen is not None:
            self._screen.hush(hushed=True)

    def pytest_leave_pdb(self) -> None:
        """Show a live line again."""
        if self._screen is not None:
            self._screen.hush(hushed=False)

    def _show_on(self, screen: Screen | None) -> None:
        with self._lock:
            before, self._screen = self._screen, screen
        if before is not None:
            before.close()

    def _hear(self, name: str, shown: Shown | None) -> None:
        with self._lock:
            news = self._voices.hear(name, shown)
            if news is not None and self._screen is not None and not self._screen.is_live:
                self._screen.print_line(news)
        self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            if self._screen is not None and self._screen.is_live:
                line = self._voices.line()
                if line is None:
                    self._screen.erase()
                else:
                    self._screen.paint(line)


def _reporters(config: pytest.Config) -> Screen | None:
    """Return where the terminal reporter writes; None where there is none, or where it is to say next to nothing."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or reporter.verbosity <= _SILENT:
        return None
    # Without capture tests write too, and would write through a live line.
    captures = config.pluginmanager.has_plugin("capturemanager") and config.getoption("capture") != "no"
    return _uncaptured(config, "stdout", reporter, may_be_live=captures and os.environ.get("TERM", "dumb") != "dumb")


def _uncaptured(config: pytest.Config, name: str, reporter: Any = None, *, may_be_live: bool = False) -> Screen | None:
    """Return a screen on the real stdout or stderr; None where it is no file, as in a pytest within a pytest."""
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    with nullcontext() if capture is None else capture.global_and_fixture_disabled():
        stream: TextIO = getattr(sys, name)
        try:
            descriptor = os.dup(stream.fileno())
        except (AttributeError, OSError, ValueError):
            return None
    writer = None if reporter is None else cast(Writer, config.get_terminal_writer())
    return Screen(descriptor, writer, live=may_be_live and os.isatty(descriptor))
