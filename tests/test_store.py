"""An image store is filled once, is complete or does not count, and is never taken away from who uses it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from pytest_dind import Build, Daemon, ImageStoreError, Settings, fill, images, results, store, tarball
from pytest_dind.contents import Contents
from pytest_dind.fill import store_for
from pytest_dind.host import HostEngine
from pytest_dind.labels import ENTRY, OURS, ROLE, STORE
from pytest_dind.store import Store
from pytest_dind.sweep import sweep
from pytest_dind.workshop import Workshop

from .builds import Workplace, workplace, write
from .conftest import IMAGE, PATIENCE, nothing_new_remains, wait_until

pytestmark = pytest.mark.once

#: A process that needs a store: tells what it waits for, stops at one point if it is to, ends with what it got.
ASK = """if 1:
    import sys
    from pytest_dind import DindError, Settings, images, progress, store
    from pytest_dind.fill import store_for
    from pytest_dind.host import HostEngine
    from pytest_dind.owner import Owner
    from pytest_dind.workshop import Workshop

    image, wanted, worker, stop, timeout = sys.argv[1:]

    def pause():
        print("at", stop, flush=True)
        sys.stdin.read()

    def stopping(module, name, after):
        original = getattr(module, name)
        def call(*args, **kwargs):
            after or pause()
            result = original(*args, **kwargs)
            after and pause()
            return result
        setattr(module, name, call)

    def saved(engine, name, original=HostEngine.save):
        chunks = original(engine, name)
        yield next(chunks)[:100_000]
        pause()
        sys.exit("cannot go on")

    match stop:
        case "with the volume made": stopping(store, "create_data", after=True)
        case "in the middle of a load": HostEngine.save = saved
        case "before the load": stopping(images, "bring", after=False)
        case "before the seal": stopping(Workshop, "shut", after=False)
        case "before the entry": stopping(store, "add", after=False)
    progress.AFTER = 0
    progress.listen(lambda shown: shown and print(shown.text, "|", shown.detail, flush=True))
    engine, owner = HostEngine.connect(), Owner.claim("a-run", worker, "a-project")
    settings = Settings(image=image, preload=(wanted,), lock_timeout=float(timeout))
    try:
        print("got", store_for(settings, engine, owner).volume)
    except DindError as error:
        print(type(error).__name__, error)
"""


class Asker:
    """A process that asks for a store."""

    def __init__(self, needs: Needs, stop: str = "nowhere", timeout: float = PATIENCE, state: str = "") -> None:
        self._output = needs.directory / f"{secrets.token_hex(4)}.txt"
        command = [sys.executable, "-c", ASK, IMAGE, needs.image, needs.worker, stop, str(timeout)]
        environment = {**os.environ, **({"XDG_STATE_HOME": state} if state else {})}
        with self._output.open("w") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        needs.askers.append(self)
        if stop != "nowhere":
            self.wait_for(f"at {stop}")

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has said something."""

        def said() -> bool:
            assert text in self.output or self.process.poll() is None, self.output
            return text in self.output

        wait_until(said, lambda: f"it does not say {text!r}: {self.output}")

    def go_on(self) -> None:
        """Let it go on from where it has stopped."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        """Leave no process."""
        self.go_on()
        self.end(signal.SIGKILL)

    def answer(self) -> str:
        """What it got in the end."""
        assert self.process.wait(PATIENCE) == 0, self.output
        return self.output.splitlines()[-1]

    def end(self, number: signal.Signals) -> None:
        """End it by a signal."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)


@dataclasses.dataclass
class Needs:
    """An image that nobody else asks for, and what the host engine has of the store with it."""

    image: str
    key: str
    directory: Path
    host: docker.DockerClient
    since: float
    worker: str
    askers: list[Asker] = dataclasses.field(default_factory=list)

    def settings(self) -> Settings:
        return Settings(image=IMAGE, preload=(self.image,))

    def volumes(self) -> set[str]:
        """What there is: data volumes by name, entries as "entry"."""
        api: Any = self.host.api
        found = api.volumes(filters={"label": f"{STORE}={self.key}"})["Volumes"] or []
        return {"entry" if ENTRY in one["Labels"] else one["Name"] for one in found}

    def fillers(self) -> int:
        """How many daemons have been created by askers."""
        api: Any = self.host.api
        created = {"type": "container", "event": "create"}
        events = api.events(since=self.since, until=time.time(), filters=created, decode=True)
        return sum(one["Actor"]["Attributes"]["name"].startswith(f"pytest-dind-{self.worker}-") for one in events)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """This module's own locks and leases."""
    with workplace(IMAGE, tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture
def needs(place: Workplace, host: docker.DockerClient, busybox: str, tmp_path: Path) -> Iterator[Needs]:
    """An image under a name of this test's own; nothing of it is left, and nobody is left at it."""
    token = secrets.token_hex(4)
    image = f"pytest-dind-test/store:{token}"
    host.images.get(busybox).tag(image)
    key = Contents.of(place.settings(preload=(image,)), place.engine, place.owner).key
    needs = Needs(image, key, tmp_path, host, time.time() - 1, f"asker-{token}")
    try:
        with nothing_new_remains(host):
            yield needs
    finally:
        for asker in needs.askers:
            asker.close()
        host.images.remove(image)
        store.let_go()
        sweep(place.engine)
        assert store.remove(place.engine, Store(key, ""))
        assert needs.volumes() == set()


def assert_filled(needs: Needs, place: Workplace, volume: str) -> None:
    """It is there, there is no other, and a daemon that adopts it has the image."""
    assert needs.volumes() == {volume, "entry"}
    with Daemon.start(needs.settings(), engine=place.engine, owner=place.owner) as daemon:
        assert daemon.loaded_because == ""
        assert daemon.client.containers.run(needs.image, ["echo", "it runs"], remove=True) == b"it runs\n"


# -- filled once


def test_of_processes_that_need_the_same_one_fills_and_the_others_wait_and_say_for_whom(
    needs: Needs, place: Workplace
) -> None:
    filler = Asker(needs, "before the seal")
    others = [Asker(needs) for _ in range(3)]
    hasty = Asker(needs, timeout=1)
    holder = f"{needs.worker} (process {filler.process.pid})"
    doing = f"filling the image store ({needs.image})"
    for other in others:
        other.wait_for(f"waiting for {holder} | {doing} for ")
    said, seconds, rest = re.split(r" for (\d+) s\. ", hasty.answer())
    assert said == f"LockTimeoutError waited 1 s for a turn at {doing}: {holder} has been {doing}"
    assert rest == "If that may take so long, wait longer: --dind-lock-timeout"
    assert 1 <= int(seconds) <= time.time() - needs.since + 1
    filler.go_on()
    (answer,) = {one.answer() for one in (filler, *others)}
    assert needs.fillers() == 1
    assert Asker(needs).answer() == answer, "who needs it later finds it"
    assert needs.fillers() == 1
    assert_filled(needs, place, answer.removeprefix("got "))


@pytest.mark.parametrize(
    "point", ["with the volume made", "in the middle of a load", "before the seal", "before the entry"]
)
def test_what_a_killed_process_has_begun_counts_for_nothing_and_who_waits_fills_at_once(
    needs: Needs, place: Workplace, point: str
) -> None:
    killed = Asker(needs, point)
    (begun,) = needs.volumes()
    other = Asker(needs)
    other.wait_for(f"waiting for {needs.worker} (process {killed.process.pid})")
    killed.end(signal.SIGKILL)
    assert other.answer() != f"got {begun}"
    assert_filled(needs, place, other.answer().removeprefix("got "))


def test_the_next_sweep_removes_what_a_killed_process_has_begun_and_no_complete_store(
    needs: Needs, place: Workplace, host: docker.DockerClient
) -> None:
    complete = Asker(needs)
    volume = complete.answer().removeprefix("got ")
    half = dataclasses.replace(needs, image=f"{needs.image}-half", worker=f"{needs.worker}-half")
    host.images.get(needs.image).tag(half.image)
    try:
        half.key = Contents.of(half.settings(), place.engine, place.owner).key
        Asker(half, "before the seal").end(signal.SIGKILL)
        (begun,) = half.volumes()
        swept = sweep(place.engine)
    finally:
        host.images.remove(half.image)
    assert swept.failed == []
    assert half.volumes() == set(), begun
    assert host.containers.list(all=True, filters={"name": half.worker}, ignore_removed=True) == []
    assert needs.volumes() == {volume, "entry"}, "its owner has ended, too"


def test_an_interrupt_while_it_is_filled_leaves_nothing(needs: Needs, host: docker.DockerClient) -> None:
    filler = Asker(needs, "before the load")
    filler.process.send_signal(signal.SIGINT)
    filler.go_on()
    filler.process.wait(PATIENCE)
    assert filler.output.rstrip().endswith("KeyboardInterrupt")
    assert needs.volumes() == set()
    assert host.containers.list(all=True, filters={"name": needs.worker}, ignore_removed=True) == []


def test_of_two_machines_that_fill_the_same_at_once_one_counts_and_both_have_their_images(
    needs: Needs, place: Workplace
) -> None:
    both = [Asker(needs, "before the entry", state=str(needs.directory / machine)) for machine in ("one", "two")]
    assert len(needs.volumes()) == 2
    answers = []
    for one in both:
        one.go_on()
        answers.append(one.answer())
    assert needs.fillers() == 2
    assert answers[0] == answers[1]
    assert_filled(needs, place, answers[0].removeprefix("got "))


# -- filling it fails


def fill_the_disk(daemon: Workshop) -> None:
    code, said = daemon.exec(["dd", "if=/dev/zero", "of=/var/lib/docker/everything", "bs=64k"])
    assert code != 0
    assert "No space left on device" in said


@pytest.mark.parametrize("point", ["load", "seal"])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    needs: Needs, place: Workplace, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def on_tmpfs(engine: HostEngine, key: str, ownership: Any) -> str:
        small = {"type": "tmpfs", "device": "tmpfs", "o": "size=32m"}
        labels = {**ownership.labels(), ROLE: "store-data", STORE: key}
        name = f"pytest-dind-test-store-{key[:16]}"
        engine.api.create_volume(name, driver="local", driver_opts=small, labels=labels)
        return name

    monkeypatch.setattr(store, "create_data", on_tmpfs)
    loaded, shut = images.bring, Workshop.shut
    full: list[Workshop] = []

    def bring(wanted: str, engine: HostEngine, client: Any, *how: Any) -> dict[str, str]:
        if point == "load":
            # What is loaded is written for nobody but the disk that is full by then.
            life = how[-1].__self__
            fill_the_disk(Workshop(life, client))
        return loaded(wanted, engine, client, *how)

    def shut_on_full(daemon: Workshop, word: str) -> int:
        full.append(daemon)
        fill_the_disk(daemon)
        return shut(daemon, word)

    monkeypatch.setattr(images, "bring", bring)
    monkeypatch.setattr(Workshop, "shut", shut_on_full)
    with pytest.raises(ImageStoreError) as caught:
        store_for(needs.settings(), place.engine, place.owner)
    assert bool(full) == (point == "seal")
    said = str(caught.value)
    first = f"the image store for {needs.image} cannot be filled: no space is left where the host engine keeps its "
    assert said.startswith(first)
    assert said.endswith("\n  cure: See docker system df there; pytest-dind prune removes all image stores.")
    assert needs.volumes() == set()


def test_an_entry_that_cannot_be_written_leaves_nothing(
    needs: Needs, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = place.engine.api.create_volume

    def refuse_entries(name: str, labels: dict[str, str]) -> Any:
        if ENTRY in labels:
            # As the engine says it; it keeps its list of volumes on the same disk.
            raise APIError("500 Server Error: write /var/lib/docker/volumes/metadata.db: no space left on device")
        return create(name, labels=labels)

    monkeypatch.setattr(place.engine.api, "create_volume", refuse_entries)
    with pytest.raises(ImageStoreError, match=r"no space is left where the host engine keeps its volumes \(500 "):
        store_for(needs.settings(), place.engine, place.owner)
    assert needs.volumes() == set()


# docker-py leaves a connection that broke to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_filler_that_dies_is_not_why_a_daemon_fails_and_is_tried_again_later(
    needs: Needs, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = images.bring

    def die_and_bring(wanted: str, engine: HostEngine, client: Any, *how: Any) -> dict[str, str]:
        if not died:
            died.append(how[-1].__self__.name)
            engine.api.kill(died[0])
        return loaded(wanted, engine, client, *how)

    died: list[str] = []
    monkeypatch.setattr(images, "bring", die_and_bring)
    with (  # noqa: PT031 (the warning comes of the start)
        pytest.warns(UserWarning, match="not adopted from an image store: the daemon that was to fill it ended"),
        Daemon.start(needs.settings(), engine=place.engine, owner=place.owner) as daemon,
    ):
        assert daemon.loaded_because.startswith("the daemon that was to fill it ended: ")
        assert daemon.client.containers.run(needs.image, ["echo", "it runs"], remove=True) == b"it runs\n"
    assert needs.volumes() == {"entry"}
    refused = store_for(needs.settings(), place.engine, place.owner)
    assert refused is not None
    assert refused.refused, "the others of the run hear of it, and do not try"
    monkeypatch.setattr(store, "_REFUSAL_COUNTS", 0)
    found = store_for(needs.settings(), place.engine, place.owner)
    assert found is not None
    assert_filled(needs, place, found.volume)


# -- what is to be in it changes meanwhile


def test_a_built_image_that_is_cleared_away_before_it_is_loaded_is_built_again(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded, read = images.bring, tarball.read
    gone: list[str] = []

    def gone_before(wanted: Path, *how: Any) -> dict[str, str]:
        if not gone:
            gone.append("before it is looked into")
            assert results.remove_unused(days=0) > 0
        return loaded(wanted, *how)

    def gone_after(path: Path) -> Any:
        found = read(path)
        if len(gone) == 1:
            gone.append("before it is opened")
            assert results.remove_unused(days=0) > 0
        return found

    monkeypatch.setattr(images, "bring", gone_before)
    monkeypatch.setattr(tarball, "read", gone_after)
    context = write(tmp_path / "app", "FROM scratch\nCOPY Dockerfile /\n")
    found = store_for(place.settings(builds=(Build(context, tag="app:gone"),)), place.engine, place.owner)
    assert found is not None
    try:
        assert gone == ["before it is looked into", "before it is opened"]
        assert (list(found.images), found.refused) == (["app:gone"], "")
        assert len(names_of(place.engine, found.key)) == 2, "its data and its entry, and nothing of the attempts before"
    finally:
        store.let_go()
        assert store.remove(place.engine, found)


def test_what_changes_each_time_it_is_filled_is_an_error_that_says_what_to_do_and_leaves_nothing(
    needs: Needs, place: Workplace, host: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = images.bring

    def bring_and_tag_anew(*how: Any) -> dict[str, str]:
        found = loaded(*how)
        host.images.get(IMAGE).tag(needs.image)
        return found

    monkeypatch.setattr(images, "bring", bring_and_tag_anew)
    monkeypatch.setattr(fill, "_ATTEMPTS", 1)
    with pytest.raises(ImageStoreError) as caught:
        store_for(needs.settings(), place.engine, place.owner)
    assert str(caught.value) == (
        f"the image store for {needs.image} cannot be filled: they changed, or were cleared away, while it was filled, "
        "1 times\n  cure: Find what tags, builds, writes or removes them meanwhile, such as another run, and let it "
        "wait; leave out of a build with .dockerignore what others write to."
    )
    assert needs.volumes() == set()


# -- what counts, on an engine that nobody else uses; nothing is filled here


@pytest.fixture(scope="module")
def engine(image: str, busybox: str) -> Iterator[HostEngine]:
    """An engine of this module's own."""
    with Daemon.start(Settings(image=image)) as daemon:
        daemon.load(busybox)
        yield HostEngine(daemon.client, daemon.host)


@pytest.fixture
def key(place: Workplace) -> Iterator[str]:
    """A key of the test's own."""
    yield secrets.token_hex(32)
    store.let_go()


def completed(engine: HostEngine, key: str, place: Workplace, **said: Any) -> Store:
    """A store as it is when it is filled, of no content."""
    volume = store.create_data(engine, key, place.owner.ownership)
    return store.add(engine, Store(key, volume, filled=time.time(), **said))


def names_of(engine: HostEngine, key: str) -> set[str]:
    return {one["Name"] for one in engine.api.volumes(filters={"label": f"{STORE}={key}"})["Volumes"] or []}


def today() -> date:
    return datetime.now(timezone.utc).date()


@contextmanager
def on(day: date) -> Iterator[None]:
    """Have another day for those who make entries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_today", day.isoformat)
        yield


@pytest.mark.parametrize("days", [-1, -8, 1], ids=["yesterday", "last week", "tomorrow"])
def test_the_first_use_on_a_day_marks_a_store_as_used_on_it(
    engine: HostEngine, key: str, place: Workplace, days: int
) -> None:
    with on(today() + timedelta(days=days)):
        before = completed(engine, key, place, images={"app:1": "sha256:1"})
    assert before.used == str(today() + timedelta(days=days))
    assert before.days_unused == max(0, -days), "a clock that goes wrong is no reason to remove anything"
    found = store.find(engine, key)
    assert found == dataclasses.replace(before, used=str(today()))
    assert names_of(engine, key) == {before.volume, f"pytest-dind-store-{key[:16]}-{today()}"}
    assert store.find(engine, key) == found


def test_the_first_entry_of_a_day_counts_and_the_data_of_the_other_goes(
    engine: HostEngine, key: str, place: Workplace
) -> None:
    first = completed(engine, key, place)
    volume = store.create_data(engine, key, place.owner.ownership)
    assert store.add(engine, Store(key, volume, filled=time.time())) == first
    assert names_of(engine, key) == {first.volume, f"pytest-dind-store-{key[:16]}-{today()}"}


def test_data_without_an_entry_is_no_store_and_nor_is_an_entry_without_data(
    engine: HostEngine, key: str, place: Workplace
) -> None:
    volume = store.create_data(engine, key, place.owner.ownership)
    assert store.find(engine, key) is None
    store.add(engine, Store(key, volume))
    assert store.remove_volume(engine, volume)
    assert store.find(engine, key) is None
    (gone,) = [one for one in store.all_stores(engine) if one.key == key]
    assert gone.refused == "its data is gone"
    store.clear_way(engine, key)
    again = completed(engine, key, place)
    assert store.find(engine, key) == again
    assert again.volume != volume


@pytest.mark.parametrize(
    "entry", ["{", "[]", "null", '{"volume": "x"}', '{"key": "k", "volume": "x", "used": "never"}'], ids=str
)
def test_an_entry_that_cannot_be_read_is_no_store_and_in_nobodys_way(
    engine: HostEngine, key: str, place: Workplace, entry: str
) -> None:
    labels = {OURS: "99.0", ROLE: "store", STORE: key, ENTRY: entry}
    engine.api.create_volume(f"pytest-dind-store-{key[:16]}-{today()}", labels=labels)
    assert store.find(engine, key) is None
    (unreadable,) = [one for one in store.all_stores(engine) if one.key == key]
    assert unreadable.refused == "what its entry says cannot be read"
    store.clear_way(engine, key)
    assert store.find(engine, key) is None
    again = completed(engine, key, place)
    assert store.find(engine, key) == again


def test_an_entry_of_another_version_may_say_more_and_less(engine: HostEngine, key: str, place: Workplace) -> None:
    volume = store.create_data(engine, key, place.owner.ownership)
    entry = json.dumps({"key": key, "volume": volume, "used": str(today()), "colour": "red"})
    labels = {OURS: "99.0", ROLE: "store", STORE: key, ENTRY: entry}
    engine.api.create_volume(f"pytest-dind-store-{key[:16]}-{today()}", labels=labels)
    assert store.find(engine, key) == Store(key, volume, used=str(today()))


# -- in use


def held_by_a_process(key: str) -> Callable[[], object]:
    code = f"from pytest_dind import store; store.hold({key!r}); print('held', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process.communicate


def test_a_store_that_a_process_uses_is_not_removed(engine: HostEngine, key: str, place: Workplace) -> None:
    used = completed(engine, key, place)
    let_go = held_by_a_process(key)
    assert not store.remove(engine, used)
    store.hold(key)
    let_go()
    assert not store.remove(engine, used), "this process uses it as well"
    assert store.find(engine, key) == used
    store.let_go()
    assert store.remove(engine, used)
    assert names_of(engine, key) == set()


def test_a_store_that_two_threads_begin_to_use_at_once_is_let_go_of_by_both(
    engine: HostEngine, key: str, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = completed(engine, key, place)
    both, lock = threading.Barrier(2), fcntl.flock

    def lock_together(descriptor: int, how: int) -> None:
        both.wait(PATIENCE)
        lock(descriptor, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lock_together)
        threads = [threading.Thread(target=store.hold, args=(key,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert not store.remove(engine, used)
    store.let_go()
    assert store.remove(engine, used)


def test_a_store_that_a_daemon_of_another_machine_uses_is_not_removed(
    engine: HostEngine, key: str, place: Workplace, busybox: str
) -> None:
    used = completed(engine, key, place)
    # No lock of ours says so.
    container = engine.client.containers.create(busybox, volumes={used.volume: {"bind": "/store", "mode": "ro"}})
    assert not store.remove(engine, used)
    assert store.find(engine, key) == used
    container.remove()
    assert store.remove(engine, used)
    assert names_of(engine, key) == set()


def test_what_decides_what_a_store_holds_decides_which_store_it_is(
    host: docker.DockerClient, place: Workplace, busybox: str
) -> None:
    name = f"pytest-dind-test/{secrets.token_hex(4)}"

    def key(**changes: Any) -> str:
        settings = Settings(**{"image": f"{name}:1", "preload": (busybox,), **changes})
        return Contents.of(settings, place.engine, place.owner).key

    try:
        host.images.get(IMAGE).tag(name, "1")
        before = key()
        assert key() == before
        assert key(daemon_arg=("--mtu=1400",), config={"debug": True}, memory="1g") == before, "they store the same"
        assert key(daemon_arg=("--storage-driver=vfs",)) != before
        assert key(config={"features": {"containerd-snapshotter": True}}) != before
        assert key(preload=(busybox, IMAGE)) != before
        host.images.get(busybox).tag(name, "1")
        assert key() != before, "the daemons' image is another under its old name"
    finally:
        host.api.remove_image(f"{name}:1", noprune=True)
