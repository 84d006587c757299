"""Which engine the docker CLI would use here, for messages: DOCKER_HOST, the current context, or the default."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .tunnel import Tunnel

if TYPE_CHECKING:
    import docker


def engine_address() -> tuple[str, str]:
    """Return where docker.from_env() looks for an engine, and who says so."""
    from docker.context import ContextAPI  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    told = os.environ.get("DOCKER_HOST")
    if told:
        return _with_scheme(told), "from DOCKER_HOST"
    try:
        named = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(named) if named else ContextAPI.get_current_context()
        if context.Host and context.Name != "default":
            return context.Host, f"from the docker context {context.Name!r}"
    except (DockerException, AttributeError, OSError, ValueError):  # a context that is no more: from_env says so
        pass
    return "unix:///var/run/docker.sock", "the default; neither DOCKER_HOST nor a docker context is set"


def _with_scheme(told: str) -> str:
    """Take an address as the docker command does: 10.0.0.5:2375 is one of TCP."""
    return told if "://" in told else f"tcp://{told}"


def client_at(address: str, timeout: int) -> tuple[docker.DockerClient, Tunnel | None]:
    """Return a client of the engine at `engine_address()`, and the tunnel that it goes through, if it is over ssh.

    :param timeout: Seconds that an answer may take.
    :raises DockerException: it does not answer, or not as Docker does.
    :raises HostEngineError: ssh does not get there.
    """
    import docker  # noqa: PLC0415 (0.2 s; only a run with --dind pays them)

    if not address.startswith("ssh://"):
        return _as_the_user_does(timeout), None
    tunnel = Tunnel(address)
    try:
        return _past_environ(docker.DockerClient(f"unix://{tunnel.socket}", version="auto", timeout=timeout)), tunnel
    except BaseException:
        tunnel.close()
        raise


def _as_the_user_does(timeout: int) -> docker.DockerClient:
    import docker  # noqa: PLC0415

    environment = dict(os.environ)
    if environment.get("DOCKER_HOST"):
        # docker-py takes `localhost` in localhost:2375 for a scheme.
        environment["DOCKER_HOST"] = _with_scheme(environment["DOCKER_HOST"])
    if not {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} & os.environ.keys():
        return _past_environ(docker.from_env(environment=environment, timeout=timeout))
    # requests prefers those authorities to the engine's own, of DOCKER_CERT_PATH or a context; as they are for others,
    # an engine with TLS would never do. https://github.com/psf/requests/issues/3829
    asking = _past_environ(docker.from_env(environment=environment, timeout=timeout, version="1.41"))
    try:
        version = asking.api.version(api_version=False)["ApiVersion"]
    finally:
        asking.close()
    return _past_environ(docker.from_env(environment=environment, timeout=timeout, version=version))


def _past_environ(client: docker.DockerClient) -> docker.DockerClient:
    """Have a client look for proxies now, and never again.

    requests looks through all of `os.environ` before each question, which fails with a KeyError on one thread while
    another changes it, as pytest does with PYTEST_CURRENT_TEST. See also https://github.com/psf/requests/issues/4997.
    """
    from requests.utils import get_environ_proxies  # noqa: PLC0415

    api: Any = client.api
    api.proxies |= get_environ_proxies(api.base_url)
    api.trust_env = False
    return client


def root_cause(error: BaseException) -> str:
    """Return the innermost reason: docker-py wraps urllib3, which wraps the socket's own."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error)
