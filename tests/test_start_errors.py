"""A daemon that cannot start says why and what to do about it, and leaves nothing; every cause here is a real one."""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import docker
import pytest
from docker.errors import APIError

from pytest_dind import Daemon, DaemonStartError, DindError, EngineRefusedError, Settings, life, unbroken
from pytest_dind.diagnosis import diagnose
from pytest_dind.errors import TAIL_LINES
from pytest_dind.host import HostEngine

from .conftest import PATIENCE, remains

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.once]

_SLEEPS = "#!/bin/sh\nexec sleep 1000\n"


def error_of(settings: Settings) -> DindError:
    """Return the error that a daemon with these settings ends in; at once nothing of it is left."""
    with pytest.raises(DindError) as caught:
        Daemon.start(settings).stop()
    return caught.value


def start_error_of(settings: Settings) -> DaemonStartError:
    """Return it where the daemon's container ran; its text shows no more of the log than it should."""
    error = error_of(settings)
    assert isinstance(error, DaemonStartError), str(error)
    tail = error.log.splitlines()[-TAIL_LINES:]
    shown = "".join(f"\n    {line}" for line in tail)
    expected = f"\n  the last {len(tail)} lines of its log:{shown}" if tail else "\n  (its log is empty)"
    assert str(error).endswith(expected)
    assert str(error).startswith(f"{error.name} did not start: {error.reason}\n")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


def ended(error: DaemonStartError) -> bool:
    """Whether the error says that the daemon ended, and how soon."""
    return bool(re.match(r"it ended after \d+\.\d\d s, before it answered \(image \S+\)$", error.reason))


@pytest.fixture(scope="module")
def image_of(host: docker.DockerClient, busybox: str) -> Iterator[Callable[..., str]]:
    """A callable that makes an image with more programs in it, of busybox unless told; they are shell scripts."""
    made: list[str] = []

    def make(*, base: str = busybox, folder: str = "bin", **programs: str) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, script in programs.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mode = len(script), 0o755
                tar.addfile(entry, io.BytesIO(script.encode()))
        container = host.containers.create(base, ["true"])
        try:
            container.put_archive("/", archive.getvalue())
            name = f"pytest-dind/odd-{os.getpid()}:{len(made)}"
            container.commit(name)
        finally:
            container.remove(force=True, v=True)
        made.append(name)
        return name

    yield make
    for name in made:
        host.images.remove(name)


@pytest.fixture
def on_tmpfs(image: str, image_of: Callable[..., str]) -> Callable[[str, str], Settings]:
    """A callable that gives a daemon's data root, /it/root, a tmpfs with given options, prepared by a script."""

    def on_tmpfs(options: str, prepare: str) -> Settings:
        mount = f"#!/bin/sh\nmkdir /it && mount -t tmpfs -o {options} tmpfs /it || exit\n{prepare}\n"
        before = f'{mount}PATH=${{PATH#/usr/local/sbin:}}\nexec dockerd "$@"\n'
        return Settings(
            image=image_of(base=image, folder="usr/local/sbin", dockerd=before), daemon_arg=("--data-root=/it/root",)
        )

    return on_tmpfs


# -- the daemon refuses


def test_an_argument_that_dockerd_does_not_know(image: str) -> None:
    error = start_error_of(Settings(image=image, daemon_arg=("--no-such-argument",)))
    assert ended(error)
    assert error.cause == "dockerd of this image does not know the argument --no-such-argument."
    assert error.cure.startswith("Correct --dind-daemon-arg (dockerd --help lists them)")
    assert f"\n  cause: {error.cause}\n  cure: {error.cure}\n" in str(error)


def test_a_key_of_daemon_json_that_dockerd_does_not_know(image: str) -> None:
    error = start_error_of(Settings(image=image, config={"no-such-key": 1}))
    assert ended(error)
    assert "daemon.json in the daemon's container is not valid: " in error.cause
    assert "no-such-key" in error.cause
    assert error.cure.startswith("Correct --dind-config")


def test_a_setting_that_is_both_an_argument_and_in_daemon_json(image: str) -> None:
    error = start_error_of(Settings(image=image, config={"mtu": 1400}, daemon_arg=("--mtu=1300",)))
    assert ended(error)
    assert error.cause == '"mtu" is set twice, in daemon.json and as an argument of dockerd.'
    assert error.cure.startswith('Take "mtu" out of --dind-config or out of --dind-daemon-arg')


def test_a_data_root_that_is_read_only(on_tmpfs: Callable[[str, str], Settings]) -> None:
    error = start_error_of(on_tmpfs("ro", "true"))
    assert ended(error)
    assert error.cause == "/it/root in the daemon's container is read-only."
    assert "--dind-mount" in error.cure


def test_a_data_root_that_is_full(on_tmpfs: Callable[[str, str], Settings]) -> None:
    error = start_error_of(on_tmpfs("size=1m", "dd if=/dev/zero of=/it/all 2>/dev/null"))
    assert ended(error)
    assert error.cause == "The file system of the data root is full, in bytes or in inodes."
    assert "df -h and df -i" in error.cure
    assert "no space left on device" in error.log


def test_a_data_root_on_an_overlay_file_system(image: str, host: docker.DockerClient) -> None:
    if host.info()["Driver"] not in ("overlay2", "overlayfs"):
        pytest.skip(f"the host engine's containers are not on an overlay but on {host.info()['Driver']}")
    arguments = ("--data-root=/elsewhere", "--storage-driver=overlay2")
    error = start_error_of(Settings(image=image, daemon_arg=arguments))
    assert ended(error)
    assert (
        error.cause == "The data root lies on an overlay file system, and the kernel puts no overlay on top of another."
    )
    assert "--storage-driver=vfs" in error.cure


# -- the image is no engine


def test_an_image_without_dockerd(busybox: str, image_of: Callable[..., str]) -> None:
    error = start_error_of(Settings(image=image_of(containerd=_SLEEPS)))
    assert ended(error)
    assert error.cause == "The image contains no dockerd."
    assert error.cure.startswith("Name an image that contains it, such as --dind-image=docker:28-dind")


def test_an_image_without_anything_of_an_engine(busybox: str) -> None:
    error = start_error_of(Settings(image=busybox))
    assert ended(error)
    assert error.reason.endswith(f"(image {busybox})")
    assert error.cause == "The image contains no containerd."


def test_an_image_without_a_shell(host: docker.DockerClient) -> None:
    archive = io.BytesIO()
    tarfile.open(fileobj=archive, mode="w").close()
    name = f"pytest-dind/empty-{os.getpid()}"
    api: Any = host.api
    api.import_image_from_data(archive.getvalue(), repository=name, tag="1")
    try:
        error = error_of(Settings(image=f"{name}:1"))
    finally:
        host.images.remove(f"{name}:1")
    # The engine says so, or its init in the container does.
    assert isinstance(error, (DaemonStartError, EngineRefusedError))
    assert error.cause == "The image has no shell, so nothing can start a daemon in it."
    assert error.cure.startswith("Name an image that contains it")


# -- it dies, or does not come


def test_a_dockerd_that_dies_late_shows_its_last_words(image_of: Callable[..., str]) -> None:
    dies = "#!/bin/sh\nfor i in $(seq 100); do echo line $i; done; sleep 1; echo last words >&2; exit 3\n"
    error = start_error_of(Settings(image=image_of(dockerd=dies, containerd=_SLEEPS)))
    assert ended(error)
    assert (error.cause, error.cure) == ("", "")
    assert len(error.log.splitlines()) == 102
    assert "\n  the last 20 lines of its log:\n    line 83\n" in str(error)
    assert str(error).endswith("\n    last words\n    pytest-dind: dockerd ended with exit code 3")


def test_a_containerd_that_dies_ends_the_start_at_once(image_of: Callable[..., str]) -> None:
    error = start_error_of(Settings(image=image_of(dockerd=_SLEEPS, containerd="#!/bin/sh\nexit 4\n")))
    assert ended(error)
    assert error.log == "pytest-dind: containerd ended with exit code 4\n"


def test_a_dockerd_that_never_answers_is_waited_for_no_longer_than_asked(image_of: Callable[..., str]) -> None:
    said = "#!/bin/sh\necho I am about to hang\nexec sleep 1000\n"
    image = image_of(dockerd=said, containerd=_SLEEPS)
    error = start_error_of(Settings(image=image, start_timeout=2))
    expected = (
        rf"it did not answer within 2 s on unix:///\S+ \(image {image}\); .* give it longer: --dind-start-timeout"
    )
    assert re.fullmatch(expected, error.reason)
    assert error.log == "I am about to hang\n"


def test_a_dockerd_that_hangs_is_stopped_all_the_same(image: str) -> None:
    with Daemon.start(Settings(image=image)) as daemon:
        assert daemon.exec(["sh", "-c", "kill -STOP $(cat /var/run/docker.pid)"]) == (0, "")


def test_a_start_timeout_that_no_machine_can_keep(image: str) -> None:
    error = start_error_of(Settings(image=image, start_timeout=0.1))
    assert error.reason.startswith("it did not answer within 0.1 s on unix:///")
    assert "--dind-start-timeout" in str(error)


# -- limits


@pytest.mark.parametrize("pids", [1, 2, 12])
def test_a_limit_of_processes_that_is_too_low(image: str, pids: int) -> None:
    # What is refused a thread may also hang.
    error = error_of(Settings(image=image, pids=pids, start_timeout=20))
    assert isinstance(error, (DaemonStartError, EngineRefusedError))
    assert error.cause == "The container may not start more processes: its pids limit is reached.", str(error)
    assert "--dind-pids=4096" in error.cure


@pytest.mark.parametrize("memory", ["6m", "12m"])
def test_a_limit_of_memory_that_is_too_low(image: str, memory: str) -> None:
    error = error_of(Settings(image=image).changed("test", memory=memory))
    assert isinstance(error, (DaemonStartError, EngineRefusedError))
    assert error.cause == "The daemon ran out of memory, or something else killed it with SIGKILL.", str(error)
    assert error.cure.startswith("Raise --dind-memory")


# -- the host engine refuses


def test_a_mount_that_the_engine_does_not_see(image: str, busybox: str, tmp_path: Path) -> None:
    # A daemon is an engine on another machine, with other files.
    with Daemon.start(Settings(image=image, preload=(busybox,))) as engine:
        with pytest.raises(EngineRefusedError) as caught:
            engine.nest(Settings(image=busybox, mount=(tmp_path,))).stop()
        assert engine.client.containers.list(all=True) == []
    error = caught.value
    assert str(error).startswith(f"the host engine refuses to run {error.name}: ")
    assert f"bind source path does not exist: {tmp_path}" in error.answer
    assert error.cause.startswith(f"The engine does not see {tmp_path} of this machine")
    assert "DOCKER_HOST" in error.cure
    assert str(error).endswith(f"\n  cause: {error.cause}\n  cure: {error.cure}")


def test_a_runtime_that_the_engine_does_not_know(image: str) -> None:
    error = error_of(Settings(image=image, runtime="no-such-runtime"))
    assert isinstance(error, EngineRefusedError)
    assert error.cause == "The engine does not know the runtime no-such-runtime."
    assert "--dind-runtime" in error.cure


def test_a_network_that_the_engine_does_not_have(image: str) -> None:
    error = error_of(Settings(image=image, network="no-such-network"))
    assert isinstance(error, EngineRefusedError)
    assert "network no-such-network not found" in str(error)


def test_a_container_that_is_not_privileged(engine_settings: Settings, image: str) -> None:
    # An engine with a runtime of this name: it is run without --privileged there, and is but runc.
    with_runtime = engine_settings.changed("test", config={"runtimes": {"sysbox-runc": {"path": "runc"}}})
    with Daemon.start(with_runtime) as engine:
        with pytest.raises(DaemonStartError) as caught:
            engine.nest(Settings(image=image, runtime="sysbox-runc")).stop()
        assert engine.client.containers.list(all=True) == []
        assert engine.client.volumes.list() == []
    error = caught.value
    assert ended(error)
    assert error.cause == (
        "The daemon's container is not privileged: the kernel refused it a mount, a namespace or iptables."
    ), str(error)
    assert "rootful engine" in error.cure


def test_an_engine_without_free_subnets_says_so(image: str) -> None:
    # The default bridge takes the only one.
    only_one = Settings(image=image, daemon_arg=("--default-address-pool=base=10.213.0.0/30,size=30",))
    with Daemon.start(only_one) as daemon, pytest.raises(APIError) as caught:
        daemon.client.networks.create("one-too-many")
    known = diagnose(str(caught.value.explanation))
    assert known is not None, caught.value.explanation
    assert known.cause == "The engine has no free subnet left for another network."
    assert "default-address-pools" in known.cure


# -- an interrupt

#: Seconds from now to an interrupt of this thread, and from each to the next, if that is not 0.
Interrupt = Callable[[float, float], None]


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    armed = False
    timers: list[Timer] = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        if armed:
            raise KeyboardInterrupt

    def after(first: float, again: float) -> None:
        nonlocal armed
        armed = False
        while timers:
            timers.pop().stop()
        armed = first > 0
        if armed:
            timers.append(Timer(first, again))

    # SIGALRM would do the same with less, and is what pytest-timeout uses.
    before = signal.signal(signal.SIGUSR1, interrupted)
    yield after
    after(0, 0)
    signal.signal(signal.SIGUSR1, before)


class Timer:
    """Sends this thread SIGUSR1 after a time, and again and again, until it is stopped."""

    def __init__(self, first: float, again: float) -> None:
        self._stopped = threading.Event()
        self._target = threading.get_ident()
        self._thread = threading.Thread(target=self._run, args=(first, again))
        self._thread.start()

    def _run(self, first: float, again: float) -> None:
        wait = first
        while not self._stopped.wait(wait):
            signal.pthread_kill(self._target, signal.SIGUSR1)
            if not again:
                return
            wait = again

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.fixture(scope="module")
def hanging(image_of: Callable[..., str]) -> Settings:
    """A daemon that takes for ever to start, so that an interrupt always comes in time."""
    return Settings(image=image_of(dockerd=_SLEEPS, containerd=_SLEEPS))


# As a thread begins; a container is created; is started; boots; is waited for.
@pytest.mark.parametrize("after", [0.001, 0.003, 0.006, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_an_interrupt_while_a_daemon_starts_leaves_nothing(
    host: docker.DockerClient, hanging: Settings, interrupt: Interrupt, after: float
) -> None:
    engine = HostEngine.connect()
    before = remains(host)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        interrupt(after, 0)
        Daemon.start(hanging, engine=engine)
    assert remains(host) <= before
    engine.close()


def test_interrupts_that_keep_coming_leave_nothing_either(
    host: docker.DockerClient, hanging: Settings, interrupt: Interrupt
) -> None:
    engine = HostEngine.connect()
    before = remains(host)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        interrupt(0.15, 0.05)
        try:
            Daemon.start(hanging, engine=engine)
        finally:
            interrupt(0, 0)
    assert remains(host) <= before
    engine.close()


def test_an_interrupt_of_a_real_dockerd_leaves_nothing(
    host: docker.DockerClient, image: str, interrupt: Interrupt
) -> None:
    before = remains(host)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        interrupt(0.25, 0)
        daemon = Daemon.start(Settings(image=image))
        interrupt(0, 0)  # The machine is that fast.
        daemon.stop()
        raise KeyboardInterrupt
    assert remains(host) <= before


def test_a_daemon_whose_new_start_was_interrupted_can_still_be_started(image: str, interrupt: Interrupt) -> None:
    with Daemon.start(Settings(image=image)) as daemon:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            daemon.stop()
            interrupt(0.05, 0)
            daemon.restart()
        assert not daemon.alive
        daemon.restart()
        assert daemon.client.ping()


class TestUnbroken:
    """What holds for any work, at moments that cannot be hit from outside."""

    def test_work_is_done_once_and_not_undone(self) -> None:
        done: list[str] = []
        unbroken.do(lambda: done.append("work"), lambda: done.append("undo"), lambda: done.append("hurry"), "x")
        assert done == ["work"]

    def test_work_that_fails_is_undone_and_its_error_raised(self) -> None:
        done: list[str] = []
        with pytest.raises(ZeroDivisionError):
            unbroken.do(lambda: 1 // 0, lambda: done.append("undo"), lambda: done.append("hurry"), "x")
        assert done == ["undo"]

    def test_an_undo_that_fails_does_not_hide_why_it_was_needed(self) -> None:
        with pytest.raises(ZeroDivisionError):
            unbroken.do(lambda: 1 // 0, lambda: int("x"), lambda: None, "x")

    def test_interrupted_work_is_told_to_hurry_and_undone_before_the_interrupt_goes_on(
        self, interrupt: Interrupt
    ) -> None:
        done: list[str] = []
        told = threading.Event()

        def undo() -> None:
            time.sleep(0.2)
            done.append("undo")

        def hurry() -> None:
            done.append("hurry")
            told.set()

        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            interrupt(0.1, 0)
            unbroken.do(told.wait, undo, hurry, "x")
        assert done == ["hurry", "undo"]

    def test_work_that_was_done_just_before_the_interrupt_is_undone_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []
        wait = threading.Event.wait

        def interrupted_wait(event: threading.Event, timeout: float | None = None) -> bool:
            wait(event, timeout)
            if threading.current_thread() is threading.main_thread() and done == ["work"]:
                raise KeyboardInterrupt
            return True

        monkeypatch.setattr(threading.Event, "wait", interrupted_wait)
        with pytest.raises(KeyboardInterrupt):
            unbroken.do(lambda: done.append("work"), lambda: done.append("undo"), lambda: None, "x")
        assert done == ["work", "undo"]

    def test_work_that_has_not_begun_never_will_after_an_interrupt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []
        threads: list[threading.Thread] = []

        def start(thread: threading.Thread) -> None:
            threads.append(thread)
            raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            unbroken.do(lambda: done.append("work"), lambda: done.append("undo"), lambda: None, "x")
        threads[0].run()  # It came into being all the same, later.
        assert done == []


def test_a_container_whose_first_process_was_lost_on_the_way_is_started_again(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "runc create failed: unable to start container process: waiting for init preliminary setup: connection reset"
    start, starts = HostEngine.start, []

    def fail_once(engine: HostEngine, container: str) -> None:
        starts.append(container)
        if len(starts) == 1:
            raise EngineRefusedError(container, said)
        start(engine, container)

    monkeypatch.setattr(HostEngine, "start", fail_once)
    monkeypatch.setattr(life, "END_TIMEOUT", 2 * PATIENCE)
    begin = time.monotonic()
    with Daemon.start(Settings(image=image)) as daemon:
        assert time.monotonic() - begin < PATIENCE, "nobody waited for the end of what had not begun"
        assert daemon.alive
        assert starts == [daemon.name, daemon.name]
