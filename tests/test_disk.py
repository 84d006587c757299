"""What outlives a run goes when nobody uses it any more, and not before; and the command that removes it all."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import secrets
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import Daemon, Settings, buildcache, store
from pytest_dind.disk import Kept, in_bytes, tidy
from pytest_dind.host import HostEngine
from pytest_dind.labels import ENTRY, OURS, ROLE, STORE, Ownership
from pytest_dind.locks import Lease
from pytest_dind.owner import Owner
from pytest_dind.places import builds_dir
from pytest_dind.store import Store

from .conftest import InnerRun, usage_error

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def daemon(image: str) -> Iterator[Daemon]:
    """An engine on which nobody else has stores."""
    with Daemon.start(Settings(image=image)) as daemon:
        yield daemon


@pytest.fixture
def engine(daemon: Daemon, tmp_path: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostEngine]:
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # The runs that other tests kill meanwhile leave directories of sockets, which a prune would find.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp))
    engine = HostEngine(daemon.client, daemon.host)
    yield engine
    for container in engine.client.containers.list(all=True):  # of a test that has failed
        container.remove(force=True)
    store.let_go()
    for one in store.all_stores(engine):
        assert store.remove(engine, one)


def made(engine: HostEngine, *, days: int = 0, **said: Any) -> Store:
    """A store as it would be if it had been filled: its volume and its entry."""
    key = secrets.token_hex(32)
    used = (datetime.now(timezone.utc) - timedelta(days=days)).date().isoformat()
    entry = Store(
        key, f"pytest-dind-store-{key[:16]}-data", "a purpose", "/ours", {"app:1": "sha256:1"}, 10**6, used=used
    )
    entry = dataclasses.replace(entry, **said)
    engine.api.create_volume(entry.volume, labels={OURS: "1", ROLE: "store-data", STORE: key})
    labels = {OURS: "1", ROLE: "store", STORE: key, ENTRY: json.dumps(dataclasses.asdict(entry))}
    engine.api.create_volume(f"pytest-dind-store-{key[:16]}-{used}", labels=labels)
    return entry


def left(engine: HostEngine) -> set[str]:
    """The keys of the stores that are there, of which no half may be."""
    complete = {one.key for one in store.all_stores(engine)}
    volumes = engine.api.volumes(filters={"label": STORE})["Volumes"] or []
    assert sorted(one["Labels"][STORE] for one in volumes) == sorted([*complete, *complete])
    return complete


def test_a_store_that_no_run_has_used_for_longer_than_it_is_kept_goes_whoever_filled_it(engine: HostEngine) -> None:
    old = [made(engine, days=8), made(engine, days=8, project="/theirs")]
    young = [made(engine, days=7), made(engine, days=-3, purpose="from a clock that is ahead")]
    kept = tidy(engine, 7, "/ours", ())
    assert left(engine) == {one.key for one in young}
    assert {one.key for one in kept.removed} == {one.key for one in old}
    assert str(kept) == "image stores: 2 with 2 MB; removed 2 with 2 MB, not used any more"


def test_builders_and_built_images_go_with_the_stores_when_nobody_has_used_them_for_as_long(engine: HostEngine) -> None:
    for days in (6, 8):
        used = time.time() - days * 86400
        name = f"pytest-dind-builder-{days}"
        engine.api.create_volume(name, labels={OURS: "1", ROLE: "builder"})
        for file in (builds_dir() / f"{name}.used", builds_dir() / f"{days}.tar"):
            file.touch()
            os.utime(file, (used, used))
    tidy(engine, 7, "/ours", ())
    assert buildcache.all_names(engine) == ["pytest-dind-builder-6"]
    assert sorted(file.name for file in builds_dir().iterdir()) == ["6.tar", "pytest-dind-builder-6.used"]
    tidy(engine, 0, "/ours", ())
    assert buildcache.all_names(engine) == ["pytest-dind-builder-6"], "0 is said for one project only"
    assert buildcache.remove_all(engine) == ["pytest-dind-builder-6"]


def test_a_store_in_whose_place_its_project_has_used_a_newer_one_goes(engine: HostEngine) -> None:
    now = time.time()
    used = made(engine, filled=now)
    superseded = made(engine, filled=now - 60)
    stay = [
        used,
        made(engine, filled=now + 60),
        made(engine, filled=now - 60, purpose="another"),
        made(engine, filled=now - 60, project="/theirs"),
    ]
    tidy(engine, 7, "/ours", {used.key})
    assert left(engine) == {one.key for one in stay}
    assert superseded.key not in left(engine)


def test_of_two_that_a_run_has_used_for_the_same_neither_goes(engine: HostEngine) -> None:
    now = time.time()
    # Its images have changed in the middle of it, or its suite runs on two engines.
    both = {made(engine, filled=now).key, made(engine, filled=now - 60).key}
    tidy(engine, 7, "/ours", both)
    assert left(engine) == both


def test_a_store_in_use_does_not_go(engine: HostEngine) -> None:
    held, removed = made(engine, days=8), made(engine, days=8)
    assert held.key[:2] != removed.key[:2], "by chance, 1 in 256"
    store.hold(held.key)
    tidy(engine, 7, "/ours", ())
    assert left(engine) == {held.key}


def test_with_nothing_to_be_kept_only_the_stores_of_this_project_go(engine: HostEngine) -> None:
    made(engine)
    theirs = made(engine, project="/theirs")
    tidy(engine, 0, "/ours", ())
    assert left(engine) == {theirs.key}


def test_what_cannot_be_looked_at_is_said_and_so_is_whose_fault_that_is(engine: HostEngine, short_tmp: Path) -> None:
    one = made(engine)
    in_the_way = builds_dir() / "a.tar"
    in_the_way.mkdir()  # which not even root can remove as a file
    os.utime(in_the_way, (0, 0))
    said = "not all could be looked at that outlives a run"
    local = f"{said}: a file of this machine cannot be read or written: [Errno "
    assert str(tidy(engine, 7, "/ours", ())).startswith(f"image stores: 1 with 1 MB; {local}")
    assert store.remove(engine, one)
    gone = HostEngine(docker.DockerClient(f"unix://{short_tmp}/no.sock", version="1.41"), f"unix://{short_tmp}/no.sock")
    assert str(tidy(gone, 7, "/ours", ())) == (
        f"{said}: the Docker engine at unix://{short_tmp}/no.sock has ceased to answer: "
        "[Errno 2] No such file or directory"
    )
    gone.close()
    with warnings.catch_warnings():
        # docker-py leaves it to the garbage collector to close the socket of a connection that failed.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_what_is_kept_is_counted() -> None:
    assert str(Kept()) == ""
    assert [in_bytes(size) for size in (0, 999, 1000, 1_500_000, 2_340_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "2 MB",
        "2.3 GB",
    ]


def test_the_summary_says_what_the_stores_hold_and_with_none_to_be_kept_what_went(
    inner: InnerRun, host: docker.DockerClient, busybox: str
) -> None:
    # A file, so that no other test has the same store.
    file = inner.pytester.path / "app.tar"
    file.write_bytes(b"".join(host.images.get(busybox).save(named=busybox)))
    inner.pytester.makepyfile("def test_it(dind_client): pass")
    options = ("--dind", "-p", "no:xdist", f"--dind-preload={file}")
    inner.run(*options).stdout.re_match_lines([r"dind: image stores: \d+ with .*[MG]B$"])
    assert "image stores" not in inner.run(*options, "-q").stdout.str()
    (ours,) = (one for one in store.all_stores(HostEngine.connect()) if one.project == str(inner.pytester.path))
    inner.run(*options, "--dind-store-keep=0").stdout.re_match_lines(
        [r"dind: .*removed [1-9]\d* with .* not used any more$"]
    )
    assert ours.key not in {one.key for one in store.all_stores(HostEngine.connect())}


def test_with_workers_too_no_store_outlives_the_run_if_none_is_to_be_kept(
    inner: InnerRun, host: docker.DockerClient, busybox: str
) -> None:
    file = inner.pytester.path / "app.tar"
    file.write_bytes(b"".join(host.images.get(busybox).save(named=busybox)))
    inner.pytester.makepyfile("def test_1(dind_client): pass\ndef test_2(dind_fresh_client): pass")
    found = inner.run("--dind", "-n", "2", f"--dind-preload={file}", "--dind-store-keep=0")
    found.assert_outcomes(passed=2)
    found.stdout.re_match_lines([r"dind: .*removed [1-9]\d* with .* not used any more$"])
    assert str(inner.pytester.path) not in {one.project for one in store.all_stores(HostEngine.connect())}


def test_a_disk_that_is_full_ends_the_run_with_one_message(inner: InnerRun, busybox: str) -> None:
    # So small that the daemon that is to fill the store does not even come up.
    inner.pytester.makeconftest("""
        from pytest_dind import store

        def create_data(engine, key, ownership):
            full = {"type": "tmpfs", "device": "tmpfs", "o": "size=100k"}
            return engine.api.create_volume(driver_opts=full, labels=ownership.labels())["Name"]

        store.create_data = create_data
    """)
    inner.pytester.makepyfile("def test_1(dind_client): pass\ndef test_2(dind_client): pass")
    # Of a name of its own, so that no other test has filled it.
    name = f"pytest-dind-test/full:{secrets.token_hex(4)}"
    engine = HostEngine.connect()
    engine.client.images.get(busybox).tag(name)
    try:
        found = inner.run("--dind", "-n", "2", f"--dind-preload={name}")
    finally:
        engine.client.images.remove(name)
        engine.close()
    usage_error(found, f"pytest-dind: the image store for {name} cannot be filled: no space is left where the host ")
    assert inner.left() == []


# -- the command


def prune(daemon: Daemon, *arguments: str, host: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest_dind.cli", "prune", *arguments],
        env={**os.environ, "DOCKER_HOST": host or daemon.host},
        capture_output=True,
        text=True,
        check=False,
    )


def test_prune_says_what_it_would_remove_and_removes_it_and_nothing_else(daemon: Daemon, engine: HostEngine) -> None:
    one = made(engine)
    engine.api.create_volume("pytest-dind-builder-1", labels={OURS: "1", ROLE: "builder"})
    engine.api.create_volume("not-ours")
    results = builds_dir()
    (results / "a.tar").write_bytes(bytes(2000))
    lines = [
        f"image store of /ours: app:1 (1 MB, last used {one.used})",
        "builder with its cache: pytest-dind-builder-1",
        "built images: 2 kB",
    ]
    said = prune(daemon, "--dry-run")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [f"would remove {line}" for line in lines]
    assert left(engine) == {one.key}
    said = prune(daemon)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [f"removed {line}" for line in lines]
    assert prune(daemon).stdout == prune(daemon, "--dry-run").stdout == "nothing to remove\n"
    assert [volume["Name"] for volume in engine.api.volumes()["Volumes"]] == ["not-ours"]
    assert list(results.glob("*.tar")) == []
    engine.api.remove_volume("not-ours")


@pytest.mark.parametrize("by", ["a process", "a container"])
def test_prune_leaves_a_store_in_use_and_says_so_beforehand_too(
    daemon: Daemon, engine: HostEngine, busybox: str, by: str
) -> None:
    used = made(engine, project="")
    if by == "a process":
        store.hold(used.key)
    else:
        # Of another machine: no lock here says so.
        daemon.load(busybox)
        inside = {used.volume: {"bind": "/store", "mode": "ro"}}
        container = engine.client.containers.create(busybox, volumes=inside)
    line = f"in use, left: image store of a script: app:1 (1 MB, last used {used.used})\n"
    assert prune(daemon, "--dry-run").stdout == line
    assert prune(daemon).stdout == line
    assert left(engine) == {used.key}
    if by == "a process":
        store.let_go()
    else:
        container.remove()
    assert prune(daemon).stdout == line.replace("in use, left:", "removed")


def test_prune_removes_what_a_dead_run_left_and_nothing_of_one_that_lives(daemon: Daemon, engine: HostEngine) -> None:
    owner = Owner.claim("a-run", "gw0", "/ours")
    engine.api.create_volume("of-a-run", labels=owner.ownership.labels())
    try:
        assert prune(daemon).stdout == "nothing to remove\n"
        assert engine.api.inspect_volume("of-a-run")["Name"] == "of-a-run"
    finally:
        owner.release()
    assert prune(daemon, "--dry-run").stdout == "would remove what dead runs left: 1 volume\n"
    assert engine.api.inspect_volume("of-a-run")["Name"] == "of-a-run"
    assert prune(daemon).stdout == "removed what dead runs left: 1 volume\n"
    assert not engine.api.volumes(filters={"name": "of-a-run"})["Volumes"]


def test_prune_removes_half_filled_stores_of_whatever_home_unless_somebody_may_be_filling_them(
    daemon: Daemon, engine: HostEngine, busybox: str, tmp_path: Path
) -> None:
    def half(name: str, host: str, lease: str) -> str:
        labels = Ownership("a-run", "gw0", host, lease).labels()
        engine.api.create_volume(name, labels={**labels, ROLE: "store-data", STORE: secrets.token_hex(32)})
        return name

    homes = [tmp_path / name for name in ("one", "two")]
    for home in homes:
        home.mkdir()
        (home / "id").write_text(home.name)
    lives, died = Lease.take(homes[0]), Lease.take(homes[1])
    died.release()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    mine = Owner.claim("a-run", "gw0", "/ours")
    used = half("d-of-another-machine-and-used", "elsewhere", "/nowhere/0.lock#1")
    left = [
        half("b-of-a-home-and-alive", "one", lives.label),
        half("c-of-mine-and-alive", mine.ownership.host, mine.lease.label),
        used,
        half("e-of-a-home-that-cannot-be-read", "one", f"{tmp_path}/loop/0.lock#1"),
    ]
    gone = [
        half("f-of-a-home-and-dead", "two", died.label),
        # That path is here somebody else's.
        half("g-of-another-machine-with-the-same-paths", "elsewhere", lives.label),
        half("h-of-another-machine", "elsewhere", "/nowhere/0.lock#1"),
    ]
    complete = made(engine)
    store.hold(complete.key)
    daemon.load(busybox)
    container = daemon.client.containers.create(busybox, volumes={used: {"bind": "/data", "mode": "rw"}})

    def lines(done: str) -> list[str]:
        unread = (
            f"perhaps in use, as its lease cannot be read ([Errno 40] Too many levels of symbolic links: '{tmp_path}"
        )
        said = [f"in use, left: half-filled image store: {name}" for name in left[:3]]
        said += [f"{unread}/loop/0.lock'), left: half-filled image store: {left[3]}"]
        return said + [f"{done} half-filled image store: {name}" for name in gone]

    def data() -> set[str]:
        return set(store.all_data(engine))

    try:
        assert prune(daemon, "--dry-run").stdout.splitlines()[1:] == lines("would remove")
        assert data() == {complete.volume, *left, *gone}
        assert prune(daemon).stdout.splitlines()[1:] == lines("removed")
        assert data() == {complete.volume, *left}
    finally:
        mine.release()
        lives.release()
        container.remove()
        (tmp_path / "loop").unlink()
    # What is left of this home is said by the sweep.
    said = prune(daemon, "--dry-run").stdout.splitlines()
    assert said[1:] == [
        *[f"would remove half-filled image store: {name}" for name in (left[0], *left[2:])],
        "would remove what dead runs left: 1 volume",
    ]
    prune(daemon)
    assert data() == {complete.volume}


def test_prune_without_an_engine_is_one_line(daemon: Daemon) -> None:
    said = prune(daemon, host="unix:///nowhere/docker.sock")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("pytest-dind: no Docker engine answers at unix:///nowhere/docker.sock")
    assert said.stderr.count("\n") == 1


def test_prune_leaves_a_builder_that_is_at_work_and_says_so_beforehand(
    daemon: Daemon, engine: HostEngine, busybox: str
) -> None:
    name = "pytest-dind-builder-at-work"
    engine.api.create_volume(name, labels={OURS: "1", ROLE: "builder"})
    daemon.load(busybox)
    container = daemon.client.containers.create(busybox, volumes={name: {"bind": "/data", "mode": "rw"}})
    left = f"in use, left: builder with its cache: {name}\n"
    try:
        assert prune(daemon, "--dry-run").stdout == left
        assert prune(daemon).stdout == left
    finally:
        container.remove()
    assert prune(daemon).stdout == f"removed builder with its cache: {name}\n"
