"""pytest's way in: options, the marker and the fixtures. What a run with daemons does is in session.py."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .options import add_options, is_wanted

if TYPE_CHECKING:
    from pathlib import Path

    import docker

    from .daemon import Daemon
    from .session import Session
    from .settings import Settings

SKIP_REASON = "needs a Docker daemon of its own, in a privileged container: run pytest with --dind (or ini dind = true)"
MARKER = (
    "dind(preload, image, daemon_args, config, mounts, keep, start_timeout, memory, cpus, pids, runtime, network, "
    "ports, transport, registry_mirrors, insecure_registries): "
    "how this test's fresh daemon is to be, in the words of the --dind-* options, as keywords; preload counts for the "
    "session daemon too."
)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare what a conftest may implement."""
    from . import hooks  # noqa: PLC0415

    pluginmanager.add_hookspecs(hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--dind` and its options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """With `--dind-environ`, start the daemon before the first conftest is imported, which may use Docker."""
    namespace = early_config.known_args_namespace
    if is_wanted(early_config, namespace):
        from .early import enter_environ_early  # noqa: PLC0415

        enter_environ_early(early_config, namespace)


def pytest_configure(config: pytest.Config) -> None:
    """Check the settings, once; without `--dind` nothing more is imported."""
    config.addinivalue_line("markers", MARKER)
    if is_wanted(config):
        from .early import session_of  # noqa: PLC0415
        from .foresight import Foresight  # noqa: PLC0415
        from .hindsight import Hindsight  # noqa: PLC0415
        from .upkeep import Upkeep  # noqa: PLC0415

        session = session_of(config)
        config.pluginmanager.register(session, "dind-session")
        config.pluginmanager.register(Foresight(session), "dind-foresight")
        upkeep = Upkeep(session)
        config.pluginmanager.register(upkeep, "dind-upkeep")
        config.pluginmanager.register(Hindsight(session, upkeep), "dind-hindsight")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """Start no more workers with `-n auto` than there is memory for daemons."""
    count = yield
    if is_wanted(config):
        from .early import limited_by_memory  # noqa: PLC0415

        count = limited_by_memory(config, count)
    return count


@pytest.fixture(scope="session")
def _dind_session(pytestconfig: pytest.Config) -> Session:
    session: Session | None = pytestconfig.pluginmanager.get_plugin("dind-session")
    if session is None:
        pytest.skip(SKIP_REASON)
    return session


@pytest.fixture(scope="session")
def _dind_image(request: pytest.FixtureRequest, _dind_session: Session) -> str:
    """The image under test, where `--dind-image` names several."""
    return getattr(request, "param", _dind_session.settings[0].image)


@pytest.fixture(scope="session")
def dind_settings(_dind_session: Session, _dind_image: str) -> Settings:
    """The settings of this run's daemons, from the command line, ini and environment.

    Override it in the conftest at the suite's root to change them:
    `return dind_settings.changed("conftest", memory="2g")`. One further down changes them for the fresh daemons there,
    but not for the session daemon, which all tests share.
    """
    return _dind_session.settings_for(_dind_image)


@pytest.fixture(scope="session")
def dind_daemon(_dind_session: Session, dind_settings: Settings) -> Daemon:
    """This worker's Docker daemon: a real one of its own, started when a test is sure to ask for it.

    A test may break it: the next test gets a new one at the same address, and fixtures of wider scopes that depend on
    it are set up anew.
    """
    return _dind_session.session_daemon(dind_settings)


@pytest.fixture(scope="session")
def dind_client(dind_daemon: Daemon) -> docker.DockerClient:
    """A `docker.DockerClient` of this worker's daemon."""
    return dind_daemon.client


@pytest.fixture(scope="session")
def dind_env(dind_daemon: Daemon) -> dict[str, str]:
    """The environment for subprocesses that are to use this worker's daemon, such as the docker CLI.

    `os.environ`, with DOCKER_HOST, a private DOCKER_CONFIG and TESTCONTAINERS_HOST_OVERRIDE set, and without the names
    that would lead to another daemon (DOCKER_CONTEXT, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, …).
    """
    return dind_daemon.env


@pytest.fixture
def dind_environ(dind_env: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same as dind_env, and in `os.environ` while the test runs: for code that reads it by itself."""
    from .environment import Patched  # noqa: PLC0415

    patched = Patched(dind_env)
    yield dind_env
    patched.undo()


@pytest.fixture
def dind_fresh_daemon(
    request: pytest.FixtureRequest, _dind_session: Session, dind_settings: Settings
) -> Iterator[Daemon]:
    """A Docker daemon that nobody has used and that this test alone will; `@pytest.mark.dind(…)` says how it is."""
    daemon = _dind_session.start_fresh(request.node, dind_settings)
    yield daemon
    _dind_session.runtime.stop_fresh(daemon)


@pytest.fixture
def dind_fresh_client(dind_fresh_daemon: Daemon) -> docker.DockerClient:
    """A `docker.DockerClient` of this test's fresh daemon."""
    return dind_fresh_daemon.client


@pytest.fixture(scope="session")
def dind_factory(_dind_session: Session, dind_settings: Settings) -> Callable[..., Daemon]:
    """A callable for more daemons: `dind_factory(memory="1g", …)` starts one with these settings changed.

    It lives until the end of the run, or until its `stop()`; it is a context manager.
    """

    def start(**changes: Any) -> Daemon:
        return _dind_session.start(dind_settings.changed("dind_factory", **changes))

    return start


@pytest.fixture(scope="session")
def dind_build(pytestconfig: pytest.Config, _dind_session: Session, dind_daemon: Daemon) -> Callable[..., str]:
    """A callable that builds an image once for all workers, and across runs while nothing that it is made of changes.

    `dind_build(path, tag=…, dockerfile=…, buildargs=…, target=…, secrets=…)` returns the image's id when this worker's
    daemon has it. A relative path counts from pytest's root directory.
    """
    hindsight: Any = pytestconfig.pluginmanager.get_plugin("dind-hindsight")

    def build(path: Path | str, **how: Any) -> str:
        __tracebackhide__ = True
        with hindsight.lasting():
            return _dind_session.build(dind_daemon, path, **how)

    return build


@pytest.fixture
def dind_clean(dind_client: docker.DockerClient) -> None:
    """After the test, remove what it left in this worker's daemon; `--dind-clean` does so after every test.

    Containers in any state, images and their names, networks, volumes, what builds cached, plugins, a swarm or what
    came into one. What was there when the test's first fixture of function scope was set up stays, and so does what
    fixtures of wider scopes and `dind_build` bring later. A name that the test moved to another image leads back to its
    own; images of --dind-preload and --dind-builds come back; other things from before that it removed do not.
    """
