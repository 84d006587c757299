"""The hooks of a run that was asked for daemons; one object for each process of it, registered by plugin.py."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from . import heed, live, notices, report, workers
from .abort import HOPELESS, end_run, ends_the_run
from .basetemp import base_temp_of
from .container import BaseTemp
from .daemon import Daemon
from .disk import Kept
from .errors import DindError, SettingsError
from .evidence import Evidence, uses_session_daemon
from .news import News
from .options import marked, preloads, shows_only
from .runtime import Runtime
from .settings import Settings
from .sweep import Swept, sweep, sweep_run

Got = TypeVar("Got")


class Session:
    """One process of a run with daemons: its settings, its runtime, what is to be said of them."""

    def __init__(self, config: pytest.Config, settings: Sequence[Settings]) -> None:
        self.config = config
        self.settings = settings
        self.news = News(config)
        self._left = Swept()
        self._kept = Kept()
        self._header: str | None = None
        self._evidence = Evidence(())
        self._early_error: DindError | None = None
        self._runtime: Runtime | None = None
        config.add_cleanup(self._close)
        live.show(config)

    @property
    def runtime(self) -> Runtime:
        """What this process owns; made when first needed, since base temp is known late."""
        if self._runtime is None:
            self._runtime = self._new_runtime(base_temp_of(self.config))
        return self._runtime

    def _new_runtime(self, base_temp: BaseTemp | None) -> Runtime:
        return Runtime(workers.run_id(self.config), workers.worker_name(), str(self.config.rootpath), base_temp)

    def start_early(self, base_temp: BaseTemp) -> bool:
        """Start the daemon of a process that is all for it, before pytest is configured; False if that failed."""
        self._runtime = self._new_runtime(base_temp)
        try:
            if not workers.is_worker_process():
                self._check_engine()
            self._runtime.enter_environ(self.settings[0])
        except DindError as error:
            if not workers.is_worker_process():
                raise pytest.UsageError(f"pytest-dind: {error}") from error
            # A worker that ends here is taken for crashed; `pytest_collection` raises it again.
            self._early_error = error
        return self._early_error is None

    def settings_for(self, image: str) -> Settings:
        """Return the run's settings for one of its images."""
        return next(one for one in self.settings if one.image == image)

    def _close(self) -> None:
        if self._runtime is not None:
            self._stop_all()
            self._runtime.close()

    def _stop_all(self) -> None:
        with notices.kept() as found:
            self.runtime.stop_all()
        self.news.conclude(self._take_news())
        self.news.note_left(found)

    def _take_news(self) -> list[dict[str, Any]]:
        taken, self.runtime.news = self.runtime.news, []
        return taken

    # -- what fixtures ask for

    def session_daemon(self, settings: Settings) -> Daemon:
        """Return this worker's daemon; ends the run where no daemon can ever be started."""
        __tracebackhide__ = True
        return self.asked_for(lambda: self.runtime.session_daemon(settings), settings)

    def start(self, settings: Settings) -> Daemon:
        """Start one more daemon; ends the run where no daemon can ever be started."""
        __tracebackhide__ = True
        return self.asked_for(lambda: self.runtime.start(settings), settings)

    def start_fresh(self, item: pytest.Item, settings: Settings) -> Daemon:
        """Start one test's own daemon, as its markers say; the runtime's `stop_fresh` is its undo."""
        __tracebackhide__ = True
        own = marked(item, settings)
        return self.asked_for(lambda: self.runtime.start_fresh(own), own)

    def build(self, daemon: Daemon, path: Path | str, **how: Any) -> str:
        """Have an image built and in a daemon; return its id there."""
        __tracebackhide__ = True
        return self.asked_for(lambda: daemon.build(self.config.rootpath / path, **how))

    def asked_for(self, get: Callable[[], Got], settings: Settings | None = None) -> Got:
        """Return what is to be had; that it is not is the error of the test that runs, or ends the run."""
        __tracebackhide__ = True
        try:
            return get()
        except DindError as error:
            # With settings of the test's own, or after others have come up, it is that test's error.
            if isinstance(error, HOPELESS) and settings in self.settings and not self.runtime.has_started:
                end_run(self.config, error)
            # The message says all there is to say; how this package came to raise it would bury that.
            raise error.with_traceback(None) from None

    # -- the run's beginning

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Check the engine, once for all workers, and remove what dead runs left."""
        known = self._header is not None or self._early_error is not None
        runs = not (self.config.option.collectonly or shows_only(self.config.option))
        if runs and not known and not hasattr(self.config, "workerinput"):
            with ends_the_run(self.config):
                self._check_engine()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Ask what conftests want inside, and enter the daemon, if all is for it, before the first test is imported."""
        # Not at the session's start: a worker that ends there is taken for crashed, and started again.
        if not workers.is_controller(self.config):
            with ends_the_run(self.config):
                self._hear_conftests()
                if self.settings[0].environ:
                    self.enter_environ()

    def _hear_conftests(self) -> None:
        name = "pytest_dind_preload"
        for wanted in self.config.hook.pytest_dind_preload(config=self.config):
            if not isinstance(wanted, (list, tuple)):
                raise SettingsError(name, wanted, "is not a list; return one, such as ['busybox', Build('app')]")
            self.settings = [settings.having(name, wanted) for settings in self.settings]

    def _check_engine(self) -> None:
        engine = self.runtime.engine
        try:
            for settings in self.settings:
                engine.require_image(engine.image_named(settings.image))
            by_memory = self.config.stash.get(workers.BY_MEMORY, None)
            self._header = report.header(engine, self.settings, sweep(engine), by_memory)
            heed.heed_caveats(self.config, self.settings, self.runtime)
        except OSError as error:  # of docker-py, or of files
            raise engine.failure(error) from error

    def enter_environ(self) -> None:
        """Have the worker's daemon in os.environ; where that was done early, say what was not known then."""
        if self._early_error is not None:
            raise self._early_error
        if not self.runtime.environ_entered:
            self.runtime.enter_environ(self.settings[0])
        elif (base_temp := base_temp_of(self.config)) is not None:
            self.runtime.settle(base_temp)
        self.runtime.have(self.settings[0])

    def pytest_report_header(self) -> str | None:
        """Say where daemons are started and from what."""
        return self._header

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear what an ended worker has to say; what a killed one left is removed at the run's end."""
        told = workers.told_by(node)
        self.news.heard += told.get("news", [])
        if "error" in told:
            raise pytest.UsageError(f"pytest-dind: {told['error']}")

    # -- tests

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run tests on every image, if there are several."""
        if len(self.settings) > 1 and "_dind_image" in metafunc.fixturenames:
            metafunc.parametrize("_dind_image", [one.image for one in self.settings], indirect=True, scope="session")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse a bad marker before the first test runs."""
        with ends_the_run(self.config):
            for item in items:
                marked(item, self.settings[0])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the worker's daemon which images its tests will want: alike in all workers, so it is one image store."""
        if not workers.is_controller(self.config):
            users = (item for item in session.items if self.uses_daemon(item))
            self.runtime.expect(image for item in users for image in preloads(item))

    # Within all other wrappers: where this fails before them, those of pytest fail in the teardown as well.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """Fail the test for images that its markers ask for, which the session daemon could not get."""
        __tracebackhide__ = True
        self.begin_evidence()
        try:
            yield
        finally:
            # Only now: what the daemon could not get is this test's error, and pytest's own set-up has been done.
            self.runtime.require(preloads(item) if self.uses_daemon(item) else [])

    def begin_evidence(self) -> None:
        """Count what daemons say from now on as said in this test."""
        self._evidence = Evidence(self.runtime.daemons, environ=self.runtime.environ_entered)

    def uses_daemon(self, item: pytest.Item) -> bool:
        """Whether a test uses the session daemon, as far as is known before."""
        return self.runtime.environ_entered or uses_session_daemon(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add sections to a failed report, and what happened to daemons to any."""
        found = yield
        if found.failed:
            for daemon in self._evidence.of(item, self.runtime.daemons, self.runtime.session):
                daemon.blamed = True
                self._evidence.add(item, found, daemon)
        self.news.put_on(found, self._take_news())
        return found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what happened to daemons; with xdist, the controller hears it here."""
        self.news.hear(report)

    # -- the run's end

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Stop the daemons, after the last fixture, and see that nothing is left."""
        self._stop_all()
        if hasattr(self.config, "workerinput"):
            workers.tell_controller(self.config, {"news": self.news.heard})
        elif self._header is not None:
            self._left = sweep_run(self.runtime.engine, self.runtime.run)
            used = {one["store"] for one in self.news.heard if "store" in one}
            self._kept = self.runtime.tidy(self.settings[0].store_keep, used)
            if notices.are_errors(one["left"] for one in self.news.heard if "left" in one):
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was started and removed."""
        for line in report.summary(self.news.heard, self._left, self._kept, brief=terminalreporter.verbosity < 0):
            terminalreporter.write_line(line)
