"""Whether a daemon that tests have used is good for further ones: what a few milliseconds tell."""

from __future__ import annotations

import os
import re
import time

from .life import Life
from .lifeline import Lifeline

#: Seconds after which a daemon that does not answer counts as broken; a busy one takes some.
PING_TIMEOUT = 5
#: Seconds in which boot.sh should have said how its container is; a busy disk takes some. And what it takes, mostly.
_FIT_TIMEOUT = 30
_FIT_SOON = 0.5
#: Seconds after which one that seems broken is looked at again, before all that it holds is given up; not if it has had
#: seconds already.
_LOOK_AGAIN = 0.1
#: What fit.sh says of a process that will not go on by itself.
_STOPPED = "process is stopped"
#: What boot.sh says when one of its two processes ends, and so the container.
_ENDED = re.compile(r"^pytest-dind: (\w+ ended with exit code \d+)$", re.MULTILINE)


class Checkup:
    """Compares a daemon and its container with what they were at a given moment."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._pid = os.getpid()
        #: Whether there is a measure.
        self.watches = False
        #: Whether what waits for it may wait for ever, as of the last `complaint`.
        self.hangs = False

    def watch(self, data_root: str) -> None:
        """Take the daemon as it is now for good, as a measure for `complaint`; that takes some milliseconds.

        :param data_root: Where dockerd has its data, in the container.
        """
        lifeline = self._life.lifeline
        if lifeline is not None:
            lifeline.answer(lifeline.ask("watch", data_root), _FIT_TIMEOUT)
            self.watches = True

    def suspect(self) -> None:
        """Say that something that outlasts tests may change dockerd's daemon.json next: now it is still the test's."""
        self._tell("suspect")

    def note_config(self) -> None:
        """Take dockerd's daemon.json as it is now for good, unless a test had changed it before."""
        self._tell("note")

    def _tell(self, word: str) -> None:
        if self.watches and self._life.lifeline is not None:
            self._life.lifeline.say(word)

    def why_silent(self, timeout: float = PING_TIMEOUT) -> OSError | None:
        """Return why the daemon does not answer within `timeout` seconds; None if it does."""
        try:
            self._life.transport.ping(timeout)
        except OSError as error:  # nobody listens, or the daemon hangs
            return error
        return None

    def complaint(self) -> str:
        """Return what makes the daemon no good for another test, such as "it does not answer"; empty if it is good.

        It serves, and what it does not say itself (its container can write to its disk and start processes, has its
        network, firewall and programs, …) is as it was at `watch`, if that was said: see fit.sh. In a forked child none
        is: the parent has the lifeline.
        """
        if os.getpid() != self._pid:
            return ""
        begin = time.monotonic()
        found = self._look()
        if found and not self._life.ended and time.monotonic() - begin < PING_TIMEOUT:
            time.sleep(_LOOK_AGAIN)  # dockerd may just be changing its firewall, say.
            found = self._look()
        return found

    def _look(self) -> str:
        lifeline = self._life.lifeline
        if lifeline is None:
            return "it was stopped"
        number = self._ask()
        silent = self.why_silent(_FIT_SOON)  # Its container looks at itself meanwhile.
        found = self._answer(number)
        if silent is not None and not found and not lifeline.ended:
            # A signal takes a moment to stop or end a process: what that has done is seen by now.
            number = self._ask()
            found = self._answer(number)
            silent = None if found or lifeline.ended else self.why_silent()
        silent = None if found else silent
        if silent is not None:
            lifeline.wait_ended(_FIT_SOON)  # It may be about to.
        elif found is None:
            found = lifeline.answer(number, _FIT_TIMEOUT)
        self.hangs = not lifeline.ended and (isinstance(silent, TimeoutError) or found is None or _STOPPED in found)
        if lifeline.ended:
            return _last_words(lifeline)
        if silent is not None:
            waited = f" within {PING_TIMEOUT} s" if isinstance(silent, TimeoutError) else ""
            return f"it does not answer on {self._life.transport.host}{waited}: {silent}"
        return f"its container has done nothing for {_FIT_TIMEOUT} s" if found is None else found

    def _ask(self) -> str:
        """Ask boot.sh; return the question's number, or nothing where there is no measure."""
        lifeline = self._life.lifeline
        return lifeline.ask("fit") if lifeline is not None and self.watches else ""

    def _answer(self, number: str) -> str | None:
        """Return the answer to a question, empty if all is well; None if it does not come soon."""
        lifeline = self._life.lifeline
        return lifeline.answer(number, _FIT_SOON) if lifeline is not None and number else ""


def _last_words(lifeline: Lifeline) -> str:
    said = _ENDED.findall(lifeline.log())
    return f"its container has ended{f': {said[-1]}' if said else ''}"
