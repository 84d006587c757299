"""An image is built once, whoever asks for it, and kept for those who ask later."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import Build, ImageBuildError, buildcache, builder, built, results
from pytest_dind.places import builds_dir

from .builds import Witness, Workplace, witness_near, workplace, write
from .conftest import IMAGE, OFFICIAL, PATIENCE, InnerRun, nothing_new_remains, wait_until

pytestmark = pytest.mark.once

#: A process that asks, tells what it waits for, and ends with what it got.
ASK = """if 1:
    import sys
    from pytest_dind import Build, ImageBuildError, Settings, built, progress
    from pytest_dind.host import HostEngine
    from pytest_dind.owner import Owner

    path, image, run = sys.argv[1:]
    progress.AFTER = 0
    progress.listen(lambda shown: shown and print(shown.text, flush=True))
    engine, owner = HostEngine.connect(), Owner.claim(run, "asker")
    try:
        found = built.tar_of(Build(path, tag="app:once"), engine, Settings(image=image), owner)
        print("got", found.identity, found.image, found.path.stat().st_size)
    except ImageBuildError as error:
        print("failed", repr(error.args))
"""


class Asker:
    """A process that asks for an image to be built."""

    def __init__(self, path: Path, run: str, output: Path) -> None:
        self._output = output
        with output.open("w") as file:
            command = [sys.executable, "-c", ASK, str(path), IMAGE, run]
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self._output.read_text()

    def answer(self) -> str:
        """What it got in the end."""
        assert self._process.wait(PATIENCE * 2) == 0, self.output
        return self.output.splitlines()[-1]

    def end(self, number: signal.Signals) -> None:
        """End it by a signal."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Where this module builds."""
    with workplace(IMAGE, tmp_path_factory.mktemp("place")) as place:
        yield place


@pytest.fixture
def witness(host: docker.DockerClient) -> Iterator[Witness]:
    """Who hears of the steps."""
    with witness_near(host) as witness:
        yield witness


def watched(directory: Path, witness: Witness, busybox: str, end: str = "true") -> Path:
    return write(directory / "app", f"FROM {busybox}\nRUN {witness.run('begin')}\nRUN {witness.run('end')} && {end}\n")


def askers(count: int, path: Path, output: Path, run: str = "one") -> list[Asker]:
    return [Asker(path, run, output / f"{run}-{number}.txt") for number in range(count)]


def wait_until_all_wait(waiting: list[Asker]) -> None:
    wait_until(
        lambda: all("waiting for asker (process" in one.output for one in waiting),
        lambda: f"not all wait: {[one.output for one in waiting]}",
    )


@pytest.mark.usefixtures("place")
def test_sixteen_processes_that_ask_at_once_have_it_built_once(
    witness: Witness, busybox: str, tmp_path: Path, host: docker.DockerClient
) -> None:
    path = watched(tmp_path, witness, busybox)
    with nothing_new_remains(host):
        answers = {one.answer() for one in askers(16, path, tmp_path)}
    assert len(answers) == 1
    assert answers.pop().startswith("got ")
    assert witness.seen == {"begin": 1, "end": 1}
    assert Asker(path, "two", tmp_path / "later.txt").answer().startswith("got ")
    assert witness.seen == {"begin": 1, "end": 1}


@pytest.mark.usefixtures("place")
def test_a_holder_that_is_killed_in_the_middle_is_followed_by_one_other(
    witness: Witness, busybox: str, tmp_path: Path
) -> None:
    path = watched(tmp_path, witness, busybox)
    go_on = threading.Event()
    witness.at = lambda _: go_on.wait(PATIENCE)
    (holder,) = askers(1, path, tmp_path, "killed")
    wait_until(lambda: witness.seen["begin"], lambda: holder.output)
    others = askers(3, path, tmp_path)
    wait_until_all_wait(others)
    assert list(builds_dir().glob("*.part")) == [], "nothing has been saved yet"
    holder.end(signal.SIGKILL)
    go_on.set()
    answers = {one.answer() for one in others}
    assert len(answers) == 1
    assert answers.pop().startswith("got ")
    assert witness.seen == {"begin": 2, "end": 1}


def test_an_interrupt_in_the_middle_leaves_nothing_but_the_cache(
    place: Workplace, witness: Witness, busybox: str, tmp_path: Path
) -> None:
    path = watched(tmp_path, witness, busybox)
    witness.at = lambda _: time.sleep(PATIENCE)
    (asker,) = askers(1, path, tmp_path)
    wait_until(lambda: witness.seen["begin"], lambda: asker.output)
    asker.end(signal.SIGINT)
    assert "KeyboardInterrupt" in asker.output
    volume = buildcache.newest(place.engine, builder.layout(place.settings(), place.engine))
    assert place.engine.api.containers(all=True, filters={"volume": volume}) == []
    assert list(builds_dir().glob("*.part")) == []
    assert witness.seen == {"begin": 1}


@pytest.mark.usefixtures("place")
def test_a_build_that_fails_fails_once_for_all_who_wait_and_again_in_the_next_run(
    witness: Witness, busybox: str, tmp_path: Path
) -> None:
    path = watched(tmp_path, witness, busybox, end="exit 3")
    go_on = threading.Event()
    witness.at = lambda _: go_on.wait(PATIENCE)
    (first,) = askers(1, path, tmp_path)
    wait_until(lambda: witness.seen["begin"], lambda: first.output)
    # Of the same run or of another: while it is being built, all want the same.
    waiting = [*askers(1, path, tmp_path, "same"), *askers(1, path, tmp_path, "other")]
    wait_until_all_wait(waiting)
    go_on.set()
    answers = {one.answer() for one in (first, *waiting)}
    assert len(answers) == 1
    assert "exit code: 3" in answers.pop()
    assert witness.seen["end"] == 1
    # Who asks later: of the same run, no; of another, it is tried again.
    Asker(path, "one", tmp_path / "later.txt").answer()
    assert witness.seen["end"] == 1
    Asker(path, "two", tmp_path / "another.txt").answer()
    assert witness.seen["end"] == 2
    assert len(list(builds_dir().glob("*.failed"))) == 1


def test_a_build_that_has_failed_is_tried_again_by_a_later_run_with_the_same_testrunuid(
    inner: InnerRun, witness: Witness, busybox: str
) -> None:
    watched(inner.pytester.path, witness, busybox, end="exit 3")
    inner.pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(dind_build, number):
            dind_build("app", tag="app:fails")
    """)
    for run in (1, 2):
        inner.run("--dind", "-n", "2", "--testrunuid=the-same").assert_outcomes(failed=2)
        assert witness.seen["end"] == run, "once for all its workers"


def test_whatever_decides_an_image_makes_another_identity(
    place: Workplace, host: docker.DockerClient, busybox: str, tmp_path: Path
) -> None:
    base = "pytest-dind-test/base:moving"
    path = write(tmp_path / "app", f"ARG BASE={base}\nFROM $BASE AS first\nFROM first AS second\n", key="secret")
    (path / "Dockerfile.other").write_text(f"FROM {base} AS first\nFROM first AS second\n")
    (path / ".dockerignore").write_text("Dockerfile*\nkey\n")

    def identity(image: str = IMAGE, **changes: Any) -> str:
        at = dataclasses.replace(place, image=image)
        return built.identity_of(Build(path, **changes), at.engine, at.settings(), at.owner)

    with named(host, busybox, base):
        first = identity()
        assert identity(secrets={"key": path / "key"}) == first
        found = [first, identity(tag="app:a"), identity(tag="app:b"), identity(target="first")]
        found += [identity(dockerfile="Dockerfile.other"), identity(buildargs={"BASE": busybox}), identity(OFFICIAL)]
        (path / "Dockerfile").write_text(f"ARG BASE={base}\nFROM $BASE AS first\nFROM first AS second\n#\n")
        found.append(identity())
    with named(host, OFFICIAL, base):
        found.append(identity())
    assert len(set(found)) == len(found)


@contextmanager
def named(host: docker.DockerClient, image: str, name: str) -> Iterator[None]:
    host.images.get(image).tag(name)
    try:
        yield
    finally:
        host.images.remove(name)


def test_a_context_that_changes_while_it_is_built_is_never_taken_for_the_old_one(
    place: Workplace, busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "app", f"FROM {busybox}\nCOPY data /\n", data="old")
    build = Build(path, tag="app:moving")
    old = built.identity_of(build, place.engine, place.settings(), place.owner)
    looked = results.find

    def find_and_change(identity: str) -> results.Built | None:
        (path / "data").write_text("new")
        return looked(identity)

    monkeypatch.setattr(results, "find", find_and_change)
    found = built.tar_of(build, place.engine, place.settings(), place.owner)
    assert found.identity == built.identity_of(build, place.engine, place.settings(), place.owner)
    assert found.identity != old
    assert looked(old) is None


@pytest.mark.usefixtures("place")
class TestResults:
    """What is kept, and for how long; no image is built here."""

    def add(self, identity: str, purpose: str, content: str = "image") -> results.Built:
        written = results.draft(identity)
        written.write_text(content)
        return results.add(identity, purpose, written, "app:test", "sha256:1")

    def test_a_newer_one_takes_the_place_of_the_older_of_the_same_purpose(self) -> None:
        old, other = self.add("a1", "purpose-a"), self.add("b1", "purpose-b")
        with old.path.open() as reading:
            new = self.add("a2", "purpose-a")
            assert reading.read() == "image", "who reads it reads on"
        assert results.find("a1") is None
        assert results.find("a2") == new
        assert results.find("b1") == other

    def test_what_is_not_used_for_long_goes_and_use_counts(self) -> None:
        used, unused = self.add("c1", "purpose-c"), self.add("d1", "purpose-d", "12345")
        for path in (used.path, unused.path):
            os.utime(path, (1, 1))
        assert results.find("c1") == used
        assert results.remove_unused(7) == 5
        assert results.find("c1") == used
        assert results.find("d1") is None
        assert not unused.path.with_suffix(".json").exists()

    def test_half_a_file_is_not_taken_for_whole_and_goes_with_the_next_attempt(self) -> None:
        half = results.draft("e1")
        half.write_text("hal")
        assert results.find("e1") is None
        assert results.draft("e1") != half
        assert not half.exists()

    def test_one_that_was_cut_off_after_it_was_kept_counts_for_nothing(self) -> None:
        kept = self.add("f1", "purpose-f")
        assert results.find("f1") == kept
        os.truncate(kept.path, 3)
        assert results.find("f1") is None

    def test_a_failure_is_of_one_identity_and_goes_when_it_is_built_or_old(self) -> None:
        error = ImageBuildError("app:test", "step 1 of 2: RUN make", "exit code 2", "no rule")
        results.fail("purpose-f", "f1", "run", error)
        failure = results.failure("purpose-f", "f1")
        assert failure is not None
        assert (failure.run, str(failure.error)) == ("run", str(error))
        assert results.failure("purpose-f", "f2") is None
        results.fail("purpose-f", "f2", "run", error)
        assert results.failure("purpose-f", "f1") is None
        self.add("f2", "purpose-f")
        assert results.failure("purpose-f", "f2") is None
        results.fail("purpose-g", "g1", "run", error)
        os.utime(builds_dir() / "purpose-g.failed", (1, 1))
        results.remove_unused(7)
        assert results.failure("purpose-g", "g1") is None

    def test_only_the_user_can_read_what_is_kept(self) -> None:
        self.add("h1", "purpose-h")
        assert builds_dir().stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o077 for path in builds_dir().glob("*.json")} == {0}
