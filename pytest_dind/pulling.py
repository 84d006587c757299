"""One pull: with the user's own log-ins, with progress, to be broken off, and with the reason where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import progress


def pull(api: Any, name: str, check: Callable[[], object] = lambda: None, *, user: Any = None) -> str:
    """Pull an image; return why that failed, or an empty text.

    :param check: Called for every line of progress; what it raises ends the pull.
    :param user: The docker-py client that has read the user's log-ins; `api` itself where nothing is said.
    """
    from docker.errors import DockerException  # noqa: PLC0415

    login, trouble = _login(user or api, name)
    failure = ""
    with progress.stage(f"pulling {name}") as stage:
        layers: dict[str, Mapping[str, int]] = {}
        try:
            # Not images.pull, which throws the stream away, and the reason with it. Never without a login, if an empty
            # one: docker-py would read one anew, from where DOCKER_CONFIG points by now.
            for line in api.pull(name, stream=True, decode=True, auth_config=login):
                check()
                failure = failure or str(line.get("error") or "")
                if line.get("status") == "Downloading" and line.get("progressDetail"):
                    layers[line["id"]] = line["progressDetail"]
                    stage.say(_megabytes(layers))
        except DockerException as error:
            failure = str(getattr(error, "explanation", None) or error)
    return f"{failure}; it was asked without a login, because {trouble}" if failure and trouble else failure


def _login(user: Any, name: str) -> tuple[dict[str, Any], str]:
    """Return what the docker command would send as the user's login, empty for none, and what kept us from one.

    It goes to the engine with this one request, which keeps it nowhere:
    https://docs.docker.com/reference/api/engine/#section/Authentication
    """
    from docker import auth, utils  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        registry, _ = auth.resolve_repository_name(utils.parse_repository_tag(name)[0])
        # docker-py read them when the client was made; it has no public way to them.
        found = auth.resolve_authconfig(user._auth_configs, registry)  # noqa: SLF001
    # A helper that is missing (which docker-py also warns of), fails, or says what is no answer. Most pulls need none.
    except (DockerException, OSError, ValueError, LookupError, UserWarning) as error:
        return {}, f"of the user's credentials: {error}"
    return dict(found or {}), ""


def _megabytes(layers: Mapping[str, Mapping[str, int]]) -> str:
    done, total = (sum(layer.get(key, 0) for layer in layers.values()) / 1e6 for key in ("current", "total"))
    return f"{done:.0f} of {total:.0f} MB"
