"""Images that a suite declares or builds: in every daemon, built once, and errors where they belong."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import docker
import pytest

from .builds import Witness, witness_near, write
from .conftest import InnerRun, usage_error

pytestmark = pytest.mark.once


@pytest.fixture
def witness(host: docker.DockerClient) -> Iterator[Witness]:
    with witness_near(host) as found:
        yield found


@pytest.fixture
def app(inner: InnerRun, busybox: str, witness: Witness) -> Path:
    """A context whose build the witness hears of, and whose image says the words that lie there."""
    dockerfile = f"FROM {busybox}\nRUN {witness.run('built')}\nCOPY words /words\n"
    # Without the line's end, old engines may lose it on its way: https://github.com/moby/moby/issues/43860
    return write(inner.pytester.path / "app", dockerfile, words="hello\n")


ASKS = """
    import pathlib, pytest

    @pytest.mark.parametrize("number", range(4))
    def test_it(dind_client, dind_build, number):
        image = dind_build("app", tag="asked:1")
        words = pathlib.Path("app/words").read_bytes()
        assert dind_client.containers.run(image, "cat /words", remove=True) == words
"""
IN_BOTH_WORKERS = ["*[[]gw0[]]*PASSED*", "*[[]gw1[]]*PASSED*"]


def test_what_tests_build_is_built_once_for_all_workers_and_not_in_the_next_run(
    inner: InnerRun, app: Path, witness: Witness
) -> None:
    (app / "Dockerfile").write_text((app / "Dockerfile").read_text() + f"RUN {witness.run('ended')}\n")
    inner.pytester.makepyfile(ASKS)
    found = inner.run("--dind", "-n", "2", "-v")
    found.assert_outcomes(passed=4)
    found.stdout.fnmatch_lines_random(IN_BOTH_WORKERS)
    assert witness.seen == {"built": 1, "ended": 1}
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=4)
    assert witness.seen == {"built": 1, "ended": 1}
    (app / "words").write_text("good bye\n")
    inner.run("--dind", "-p", "no:xdist", "-k", "[0]").assert_outcomes(passed=1, deselected=3)
    assert witness.seen == {"built": 1, "ended": 2}, "what comes before the change is in the layer cache"


def test_a_build_that_fails_is_each_tests_error_and_is_not_tried_again(
    inner: InnerRun, app: Path, witness: Witness
) -> None:
    (app / "Dockerfile").write_text((app / "Dockerfile").read_text() + "RUN echo the last $(echo words) && exit 3\n")
    inner.pytester.makepyfile(ASKS)
    found = inner.run("--dind", "-n", "2")
    found.assert_outcomes(failed=4)
    _, *said = re.split(r"\nE .*ImageBuildError: building asked:1 failed at .*RUN echo", found.stdout.str())
    assert ["the last words" in one for one in said] == [True] * 4, found.stdout.str()
    assert witness.seen["built"] == 1


@pytest.mark.parametrize(("how", "workers"), [("ini and hook", 2), ("option", 0)])
def test_what_is_declared_is_in_every_daemon_from_the_start(
    inner: InnerRun, app: Path, witness: Witness, how: str, workers: int
) -> None:
    tags = ["app:test", "hooked:test"][: 1 if how == "option" else 2]
    suite = inner.pytester.mkdir("suite")
    (suite / "test_inside.py").write_text(
        dedent(f"""
        import pytest

        @pytest.mark.parametrize("number", range({workers or 1}))
        def test_it(dind_client, dind_fresh_client, number):
            for client in dind_client, dind_fresh_client:
                assert sorted(tag for image in client.images.list() for tag in image.tags) == {tags}
            for tag in {tags}:
                assert dind_client.containers.run(tag, "cat /words", remove=True) == b"hello\\n"
    """)
    )
    options = ["--dind-builds", "app:test app"] if how == "option" else []
    if how != "option":  # from where the run starts, the first path leads nowhere
        (suite / "pytest.ini").write_text("[pytest]\ndind_builds = app:test ../app\n")
        shutil.copytree(app, inner.pytester.path / "hooked")
        dockerfile = inner.pytester.path / "hooked" / "Dockerfile"
        dockerfile.write_text(dockerfile.read_text().replace("/built", "/hooked"))
        (suite / "conftest.py").write_text(
            dedent("""
            from pathlib import Path
            from pytest_dind import Build

            def pytest_dind_preload(config):
                return [Build(Path(__file__).parent.parent / "hooked", tag="hooked:test")]
        """)
        )
    found = inner.run("--dind", "-n", str(workers), "-v", *options, "suite")
    found.assert_outcomes(passed=workers or 1)
    found.stdout.fnmatch_lines_random(IN_BOTH_WORKERS if workers else [])
    assert witness.seen == ({"built": 1} if how == "option" else {"built": 1, "hooked": 1})


def test_a_declared_build_that_fails_ends_the_run_with_one_message(
    inner: InnerRun, app: Path, witness: Witness
) -> None:
    (app / "Dockerfile").write_text((app / "Dockerfile").read_text() + "RUN echo the last $(echo words) && exit 3\n")
    inner.pytester.makepyfile("def test_1(dind_client): pass\ndef test_2(dind_client): pass\n")
    found = inner.run("--dind", "-n", "2", "--dind-builds", f"app:test {app}")
    usage_error(found, "pytest-dind: building app:test failed at", "exit 3", "the last words")
    assert witness.seen["built"] == 1


@pytest.mark.parametrize(
    ("returned", "said", "workers"),
    [
        ("'busybox'", "pytest_dind_preload: 'busybox' is not a list", "0"),
        ("[3]", "pytest_dind_preload: 3 is not a text", "2"),
    ],
)
def test_what_the_hook_may_not_return_is_one_line(inner: InnerRun, returned: str, said: str, workers: str) -> None:
    inner.pytester.makeconftest(f"def pytest_dind_preload(config): return {returned}")
    inner.pytester.makepyfile("def test_it(dind_client): pass")
    usage_error(inner.run("--dind", "-n", workers), said)


def test_a_process_that_is_all_for_its_daemon_has_what_conftests_want_too(
    inner: InnerRun, app: Path, witness: Witness, busybox: str
) -> None:
    inner.pytester.makeconftest(f"""
        from pathlib import Path
        from pytest_dind import Build

        def pytest_dind_preload(config):
            return [{busybox!r}, Build(Path(__file__).parent / "app", tag="app:test")]
    """)
    inner.pytester.makepyfile(f"""
        import docker
        TAGS = {{tag for image in docker.from_env().images.list() for tag in image.tags}}

        def test_it():
            assert TAGS == {{"app:test", {busybox!r}}}
    """)
    inner.run("--dind", "--dind-environ", "-p", "no:xdist").assert_outcomes(passed=1)
    assert witness.seen["built"] == 1


def test_an_image_that_is_nowhere_fails_only_the_test_whose_marker_names_it(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(f"""
        import pytest

        @pytest.mark.dind(preload=[{busybox!r}])
        def test_with(dind_client):
            assert dind_client.images.get({busybox!r})

        @pytest.mark.dind(preload=["127.0.0.1:1/nowhere:1"])
        def test_without(dind_client): pass

        @pytest.mark.dind(preload=[{busybox!r}])
        def test_fresh(dind_fresh_client):
            assert [image.tags for image in dind_fresh_client.images.list()] == [[{busybox!r}]]
    """)
    found = inner.run("--dind", "-p", "no:xdist")
    found.assert_outcomes(passed=2, errors=1)
    found.stdout.fnmatch_lines(["*ImageNotFoundError: image '127.0.0.1:1/nowhere:1' is nowhere*"])


def test_what_the_daemon_of_a_process_got_after_its_start_is_in_one_that_takes_its_place(
    inner: InnerRun, app: Path, busybox: str
) -> None:
    inner.pytester.makeconftest("""
        from pathlib import Path
        from pytest_dind import Build

        def pytest_dind_preload(config):
            return [Build(Path(__file__).parent / "app", tag="app:test")]
    """)
    inner.pytester.makepyfile(f"""
        import docker

        def tags():
            return {{tag for image in docker.from_env().images.list() for tag in image.tags}}

        def test_it_breaks(dind_daemon):
            assert tags() == {{"app:test", {busybox!r}}}
            dind_daemon.engine.api.kill(dind_daemon.name)

        def test_another():
            assert tags() == {{"app:test", {busybox!r}}}
    """)
    inner.run("--dind", "--dind-environ", f"--dind-preload={busybox}", "-p", "no:xdist").assert_outcomes(passed=2)


def test_a_file_that_many_tests_want_is_loaded_once(inner: InnerRun, host: docker.DockerClient, busybox: str) -> None:
    (inner.pytester.path / "app.tar").write_bytes(b"".join(host.images.get(busybox).save(named=busybox)))
    inner.pytester.makepyfile(f"""
        import time
        import pytest

        @pytest.mark.dind(preload=["./app.tar"])
        @pytest.mark.parametrize("number", range(3))
        def test_it(dind_client, number):
            assert dind_client.images.get({busybox!r})
            events = dind_client.events(since=0, until=int(time.time()) + 1, filters={{"type": "image"}}, decode=True)
            assert "load" not in [event["Action"] for event in events], "it is in the store"
    """)
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=3)
