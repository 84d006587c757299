"""Images that a suite declares or builds: in every daemon, built once, and errors where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    """A context whose build the witness hears of."""
    return write(inner.pytester.path / "app", f"FROM {busybox}\nRUN {witness.run('built')} && echo hello >/greeting\n")


ASKS = """
    import pytest

    @pytest.mark.parametrize("number", range(4))
    def test_it(dind_client, dind_build, number):
        image = dind_build("app", tag="asked:1")
        assert dind_client.containers.run(image, "cat /greeting", remove=True) == b"hello\\n"
"""


def test_what_tests_build_is_built_once_for_all_workers_and_not_in_the_next_run(
    inner: InnerRun, app: Path, witness: Witness
) -> None:
    inner.pytester.makepyfile(ASKS)
    inner.run("--dind", "-n", "2").assert_outcomes(passed=4)
    assert witness.seen["built"] == 1
    inner.run("--dind", "-n", "2").assert_outcomes(passed=4)
    assert witness.seen["built"] == 1
    (app / "new").write_text("the context is another now")
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=4)
    assert witness.seen["built"] <= 2, "the layer may be in the cache, and is not built a third time"


def test_a_build_that_fails_is_each_tests_error_and_is_not_tried_again(
    inner: InnerRun, app: Path, witness: Witness
) -> None:
    (app / "Dockerfile").write_text((app / "Dockerfile").read_text() + "RUN echo the last words && exit 3\n")
    inner.pytester.makepyfile(ASKS)
    found = inner.run("--dind", "-n", "2")
    found.assert_outcomes(failed=4)
    assert found.stdout.str().count("the last words") >= 4
    found.stdout.fnmatch_lines(["*ImageBuildError: *asked:1*"])
    assert witness.seen["built"] == 1


@pytest.mark.parametrize("how", ["ini", "option", "hook"])
def test_what_is_declared_is_in_every_daemon_from_the_start(
    inner: InnerRun, app: Path, witness: Witness, how: str
) -> None:
    inner.pytester.makepyfile("""
        def test_of_the_worker(dind_client):
            assert dind_client.containers.run("app:test", "cat /greeting", remove=True) == b"hello\\n"

        def test_of_its_own(dind_fresh_client):
            assert [image.tags for image in dind_fresh_client.images.list()] == [["app:test"]]
    """)
    options = ["--dind-builds", f"app:test {app}"] if how == "option" else []
    if how == "ini":
        inner.pytester.makeini("[pytest]\ndind_builds = app:test app\n")
    if how == "hook":
        inner.pytester.makeconftest("""
            from pathlib import Path
            from pytest_dind import Build

            def pytest_dind_preload(config):
                return [Build(Path(__file__).parent / "app", tag="app:test")]
        """)
    inner.run("--dind", "-n", "2", *options).assert_outcomes(passed=2)
    assert witness.seen["built"] == 1


def test_a_declared_build_that_fails_ends_the_run_with_one_message(
    inner: InnerRun, app: Path, witness: Witness
) -> None:
    (app / "Dockerfile").write_text((app / "Dockerfile").read_text() + "RUN echo the last words && exit 3\n")
    inner.pytester.makepyfile("def test_1(dind_client): pass\ndef test_2(dind_client): pass\n")
    found = inner.run("--dind", "-n", "2", "--dind-builds", f"app:test {app}")
    usage_error(found, "pytest-dind: building app:test failed at", "exit 3", "the last words")
    assert witness.seen["built"] == 1


@pytest.mark.parametrize(
    ("returned", "said"),
    [("'busybox'", "pytest_dind_preload: 'busybox' is not a list"), ("[3]", "pytest_dind_preload: 3 is not a text")],
)
def test_what_the_hook_may_not_return_is_one_line(inner: InnerRun, returned: str, said: str) -> None:
    inner.pytester.makeconftest(f"def pytest_dind_preload(config): return {returned}")
    inner.pytester.makepyfile("def test_it(dind_client): pass")
    usage_error(inner.run("--dind", "-p", "no:xdist"), said)


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
