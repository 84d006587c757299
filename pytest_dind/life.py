"""A daemon's container, from before it is created until nothing of it is left; an interrupt never leaves half of it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import networks, notices, unbroken
from .container import BaseTemp, Storage, boot_archive, describe, shared
from .diagnosis import diagnose
from .errors import TAIL_LINES, DaemonStartError, DaemonStateError, DindError, EngineRefusedError, HostEngineError
from .host import HostEngine
from .lifeline import Lifeline
from .owner import Owner
from .route import Route, ownership_on, route_to
from .settings import Settings
from .transport import Transport

#: What a host engine says, once in a thousand times on a busy machine, when runc lost the container's first process
#: before that was one; the next attempt succeeds.
_NEVER_BEGAN = "waiting for init preliminary setup"
#: Seconds in which a container that was let go should have ended and removed itself; then it is killed.
END_TIMEOUT = 10
#: Seconds in which a daemon should have ended in order; a slow disk takes some.
SHUT_TIMEOUT = 300
#: Seconds in which the host engine should have removed a killed container and its volume.
REMOVAL_TIMEOUT = 60


class Life:
    """One container at a time under one name; it can be started anew when it has ended."""

    def __init__(self, name: str, engine: HostEngine, owner: Owner, route: Route, transport: Transport) -> None:
        self.name = name
        self.engine = engine
        self.owner = owner
        self.route = route
        self.transport = transport
        #: The stream to its container; None before the start and after the end.
        self.lifeline: Lifeline | None = None
        #: The newest API version that the daemon speaks.
        self.api_version = ""
        #: Seconds from nothing to the first answer.
        self.seconds = 0.0
        self._cancelled = threading.Event()
        self._created = self._running = False
        self._mounted = (0, 0)

    @classmethod
    def planned(cls, engine: HostEngine, owner: Owner, settings: Settings) -> Life:
        """Return one under the owner's next name, reached as the settings ask for.

        :raises HostEngineError: there is no way to daemons from here.
        """
        name, directory = owner.next_names()
        route = route_to(engine, settings)
        return cls(name, engine, owner, route, route.transport(directory, settings.port))

    def begin(
        self,
        settings: Settings,
        base_temp: BaseTemp | None,
        then: Callable[[], None],
        storage: Storage = Storage(),  # noqa: B008 (frozen)
    ) -> None:
        """Start the container, wait until the daemon serves, and do what comes `then`; undo all if any of it fails.

        :raises DaemonStartError: it did not come up.
        :raises EngineRefusedError: the host engine does not run its container.
        :raises ImageNotFoundError: its image is nowhere.
        """

        def work() -> None:
            try:
                self._boot(settings, base_temp, storage)
            except EngineRefusedError as error:
                if not (_NEVER_BEGAN in error.answer or self.transport.is_taken(error.answer)):
                    raise
                self.end()
                self.check_interrupted()
                self._boot(settings, base_temp, storage)
            self.check_interrupted()
            then()

        self._cancelled.clear()
        unbroken.do(work, undo=self.end, hurry=self._cancel, name=f"{self.name} start")

    def _cancel(self) -> None:
        self._cancelled.set()
        if self.lifeline is not None:
            self.lifeline.let_go()

    def check_interrupted(self) -> None:
        """Go no further when the thread that waits has been interrupted.

        :raises DaemonStartError: it has.
        """
        if self._cancelled.is_set():
            raise DaemonStartError(self.name, "it was interrupted")

    def _boot(self, settings: Settings, base_temp: BaseTemp | None, storage: Storage) -> None:
        if base_temp is not None and self.route.seen(base_temp.mount) is None:
            base_temp = None  # Nobody asked for it; what is put into a daemon gets there even so.
        with self.owner.watching(self.engine, self.name, str(self.transport.directory)) as creating:
            self.transport.make()
            self.transport.belong_to(self.owner.lease.label)
            self._mounted = base_temp.identity() if base_temp else (0, 0)
            mounts = shared(self.route, self.transport, base_temp, settings)
            begin = time.monotonic()
            fitted = networks.fitted(settings, self.engine, self.transport.network or settings.network)
            container = describe(fitted, self.transport, ownership_on(self.engine, self.owner), mounts, storage)
            creating()
            self._created = True  # Before, since an answer may be lost; undone in `end`.
            try:
                self.engine.create(self.name, container, self.check_interrupted)
            except EngineRefusedError:
                self._created = False  # The name may be another's.
                raise
            deadline = time.monotonic() + settings.start_timeout
            self.engine.put(self.name, boot_archive())
            log = settings.log_dir / f"{self.name}.log" if settings.log_dir else None
            self.lifeline = Lifeline(self.engine.attach(self.name), self.name, log)
            self.own(base_temp.own if base_temp else None)
            self.check_interrupted()
            self._running = True
            try:
                self.engine.start(self.name)
            except EngineRefusedError:
                self._running = False  # There is no end to wait for.
                raise
        self.transport.started(self.name, self.lifeline, lambda: self.engine.container(self.name))
        self.check_interrupted()
        api_version = self.transport.wait_ready(self.lifeline, deadline)
        self.check_interrupted()
        self.seconds = time.monotonic() - begin
        if api_version is None:
            raise self._start_error(self.lifeline, settings)
        self.api_version = api_version

    def _start_error(self, lifeline: Lifeline, settings: Settings) -> DindError:
        """Say why it is not ready: it ended, it is out of reach, as all of this run will be, or it is too late."""
        if not lifeline.ended and self.transport.is_out_of_reach(lifeline):
            return HostEngineError(
                f"{self.name} serves on the host engine at {self.engine.address}, but {self.transport.host} is not "
                f"reached from here ({self.transport.failure}). {self.route.reach.cure}"
            )
        if lifeline.ended:
            reason = f"it ended after {self.seconds:.2f} s, before it answered (image {settings.image})"
        else:
            # Of a unix socket it says nothing that is of use.
            at_last = f"at last: {self.transport.failure}; " if self.route.kind == "tls" else ""
            reason = (
                f"it did not answer within {settings.start_timeout:g} s on {self.transport.host} "
                f"({at_last}image {settings.image}); if this machine is that slow, give it longer: --dind-start-timeout"
            )
        log = lifeline.log()
        known = diagnose(log)
        return DaemonStartError(self.name, reason, log, known.cause if known else "", known.cure if known else "")

    @property
    def ended(self) -> bool:
        """Whether its container has ended, for whatever reason."""
        return self.lifeline is None or self.lifeline.ended

    def own(self, directory: Path | None) -> None:
        """Name the directory whose files a user that is not root gets back in the end; none for None."""
        if self.lifeline is not None:
            self.lifeline.say(f"own {directory or ''}")

    def sees(self, now: BaseTemp, early: BaseTemp | None) -> bool:
        """Whether base temp, as it is now, lies in what was mounted at the start."""
        if self.route.seen(now.mount) is None:
            return True  # as far as it ever will
        return early is not None and early.identity() == self._mounted and now.mount.is_relative_to(early.mount)

    def shut(self, word: str) -> int:
        """End the daemon in order, so that others can go on with its data; return the bytes of that.

        :param word: `close`, or `seal DRIVER` for an image store; see boot.sh.
        :raises DaemonStateError: it did not end so; its data may be anything.
        """
        assert self.lifeline is not None
        since = self.lifeline.position()
        self.lifeline.say(word)
        self.lifeline.wait_ended(SHUT_TIMEOUT)
        log = self.lifeline.log(since)
        said = re.search(r"pytest-dind: (?:closed|sealed), (\d+) KiB$", log, re.MULTILINE)
        if not said:
            tail = "\n    ".join(log.splitlines()[-TAIL_LINES:])
            raise DaemonStateError(f"{self.name} did not end in order ({word}); its last words:\n    {tail}")
        return int(said[1]) * 1024

    def abandon(self) -> None:
        """Leave the container running on its own, under a name that says that it is not to be swept."""
        assert self.lifeline is not None
        self.transport.mark_kept()
        self.lifeline.say("keep")
        # The name, since labels cannot be changed.
        kept = f"{self.name}-kept"
        self.engine.rename(self.name, kept)
        self.name = kept
        self.transport.leave(kept)
        self.lifeline.close()

    def end(self) -> None:
        """Undo what `begin` did, as far as it came."""
        try:
            if self._created:
                self.remove_container()
        finally:
            self.forget()

    def forget(self) -> None:
        """Undo what this process has of it: whoever asks nobody knows that its container goes with something else."""
        self._created = self._running = False
        if self.lifeline is not None:
            self.lifeline.close()
            self.lifeline = None
        self.transport.remove()

    def remove_container(self) -> None:
        """See that the container and its volume are gone, and warn of what will not go."""
        try:
            if self.lifeline is not None and self._running:
                self.lifeline.let_go()
                if self.lifeline.wait_ended(END_TIMEOUT) and self.engine.wait_removed(self.name, END_TIMEOUT):
                    return
            self.engine.remove(self.name)
            if self.engine.wait_removed(self.name, REMOVAL_TIMEOUT):
                return
            reason = f"it is still there after {REMOVAL_TIMEOUT} s"
        except OSError as error:  # docker-py's errors are requests' errors, and those are OSErrors
            reason = str(error)
        message = f"{self.name} is left on the host engine: {reason}. Remove it: docker rm -fv {self.name}"
        notices.warn(message)
