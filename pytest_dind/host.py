"""The host engine: the one door to it. Everything that is made on it or removed from it passes here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

from .answers import inspect_image, why_not
from .context import client_at, engine_address, root_cause
from .diagnosis import diagnose
from .errors import DindError, EngineRefusedError, HostEngineError, ImageNotFoundError
from .labels import OURS
from .pulling import pull
from .tunnel import Tunnel

if TYPE_CHECKING:
    import docker

#: Docker 20.10: the first with `CgroupnsMode`. https://docs.docker.com/reference/api/engine/version-history/
OLDEST_API = (1, 41)
#: Seconds that the engine may take for one answer; a busy one takes several for a container.
ANSWER_TIMEOUT = 120
#: Bytes of an image that is streamed, at a time.
_CHUNK = 2 * 1024**2
#: What an image of several platforms is described by.
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


class HostEngine:
    """The Docker engine that daemons are started on."""

    def __init__(self, client: docker.DockerClient, address: str, tunnel: Tunnel | None = None) -> None:
        self.client = client
        #: What it is reached through, if that is ssh.
        self.tunnel = tunnel
        self.api: Any = client.api
        self.address = address
        #: Where this process runs, as seen from here, once `route.around` has looked.
        self.surroundings: Any = None

    @classmethod
    def connect(cls) -> HostEngine:
        """Connect to the engine that the docker CLI would use: DOCKER_HOST, else the current context.

        :raises HostEngineError: none answers there, or it is too old.
        """
        from docker.errors import DockerException  # noqa: PLC0415

        address, source = engine_address()
        try:
            client, tunnel = client_at(address, ANSWER_TIMEOUT)
            engine = cls(client, address, tunnel)
            api_version = engine.version["ApiVersion"]
        except (DockerException, OSError, ValueError) as error:
            raise HostEngineError(
                f"no Docker engine answers at {address} ({source}): {root_cause(error)}. "
                "Start Docker, set DOCKER_HOST to an engine that runs, or, if the permission is denied, "
                "add your user to the group 'docker'; 'docker info' must work.",
            ) from error
        if tuple(map(int, api_version.split("."))) < OLDEST_API:
            engine.close()
            raise HostEngineError(
                f"the Docker engine at {address} ({source}) is too old: API {api_version}, and pytest-dind needs "
                f"{'.'.join(map(str, OLDEST_API))} (Docker 20.10) or newer.",
            )
        return engine

    @cached_property
    def version(self) -> Mapping[str, Any]:
        """What the engine says of its version."""
        answer: Mapping[str, Any] = self.api.version(api_version=False)
        return answer

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """What the engine says of itself."""
        answer: Mapping[str, Any] = self.api.info()
        return answer

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        if self.tunnel is not None:
            self.tunnel.close()

    # -- images

    def image_named(self, name: str) -> str:
        """Return an image's name with `{version}` filled in."""
        # Debian and others append to the version: 26.1.5+dfsg1.
        return name.replace("{version}", self.version["Version"].split("+")[0].split("-")[0])

    def image(self, name: str) -> Mapping[str, Any] | None:
        """Return what the engine knows of an image; None if it has not got it."""
        from docker.errors import APIError  # noqa: PLC0415

        try:
            return inspect_image(self.api, name)
        except APIError as error:  # a name that no engine would take
            raise ImageNotFoundError(name, f"the host engine says: {error.explanation}") from error

    def require_image(self, name: str, check: Callable[[], object] = lambda: None) -> None:
        """Have an image on the host engine: pulled, if it is not there.

        :param check: Called again and again during a pull; what it raises ends that.
        :raises ImageNotFoundError: it is neither there nor can it be pulled.
        """
        if self.image(name) is None:
            failure = pull(self.api, name, check)
            if failure:
                raise ImageNotFoundError(
                    name,
                    f"the host engine at {self.address} has not got it, and pulling it failed: {failure}. "
                    "Mind the spelling, pull or build it on the host engine, or name another with --dind-image.",
                )

    def save(self, name: str) -> Iterator[bytes]:
        """Stream an image out of the host engine, as `docker save` does.

        :raises ImageNotFoundError: the engine has not got it, or cannot save it.
        """
        from docker.errors import APIError  # noqa: PLC0415

        image = self.image(name) or {}
        # Of an image of several platforms, the containerd store saves the whole index, and with it what names platforms
        # that are not there: https://github.com/docker/cli/issues/7278. The parameter came with Docker 28.
        platform = {key.lower(): image[key] for key in ("Os", "Architecture", "Variant") if image.get(key)}
        of_many = str((image.get("Descriptor") or {}).get("mediaType")) in _INDEX_TYPES
        parameters = {"platform": json.dumps(platform)} if of_many else {}
        try:
            # docker-py's get_image does not know the parameter.
            response = self.api._get(self.api._url("/images/{0}/get", name), params=parameters, stream=True)  # noqa: SLF001
            yield from self.api._stream_raw_result(response, _CHUNK, False)  # noqa: SLF001
        except APIError as error:
            raise ImageNotFoundError(name, f"the host engine cannot save it: {error.explanation}") from error

    # -- containers

    def create(self, name: str, container: Mapping[str, Any], check: Callable[[], object] = lambda: None) -> str:
        """Create a container, its image pulled if need be; return its id. `remove` is its undo, also by name.

        :param check: See `require_image`.
        :raises ImageNotFoundError: the engine has not got its image, and cannot pull it.
        :raises EngineRefusedError: it refuses the container.
        :raises HostEngineError: it no longer answers; so do `put`, `attach` and `start`.
        """
        from docker.errors import ImageNotFound  # noqa: PLC0415

        with self._asked_for(name):
            try:
                answer = self.api.create_container_from_config(container, name)
            except ImageNotFound:
                self.require_image(container["Image"], check)
                answer = self.api.create_container_from_config(container, name)
        return str(answer["Id"])

    def put(self, container: str, archive: bytes | BinaryIO) -> None:
        """Unpack a tar file at the root of a container, running or not."""
        with self._asked_for(container):
            self.api.put_archive(container, "/", archive)

    def attach(self, container: str) -> Any:
        """Open the stream to a container's input and output."""
        with self._asked_for(container):
            return self.api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})

    def start(self, container: str) -> None:
        """Start a created container.

        :raises EngineRefusedError: it cannot be run.
        """
        with self._asked_for(container):
            self.api.start(container)

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        with self._asked_for(container):
            self.api.rename(container, name)

    @contextmanager
    def _asked_for(self, container: str) -> Iterator[None]:
        """Say in our own errors what goes wrong with a container."""
        from docker.errors import APIError  # noqa: PLC0415

        try:
            yield
        except APIError as error:
            answer = str(error.explanation or error)
            known = diagnose(answer)
            cause, cure = (known.cause, known.cure) if known else ("", "")
            raise EngineRefusedError(container, answer, cause, cure) from error
        except OSError as error:
            raise self.failure(error) from error

    def failure(self, error: OSError) -> DindError:
        """Return our own error for one of docker-py's, which says what the engine does, or of this machine's files."""
        return why_not(self.address, error)

    def container(self, container: str) -> Mapping[str, Any] | None:
        """Return what the engine knows of a container; None if it is gone."""
        from docker.errors import NotFound  # noqa: PLC0415

        try:
            answer: Mapping[str, Any] = self.api.inspect_container(container)
        except NotFound:
            return None
        return answer

    def wait_removed(self, container: str, timeout: float) -> bool:
        """Wait up to `timeout` seconds until an ended container and its volumes are gone; True when they are."""
        from docker.errors import APIError, NotFound  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        try:
            self.api.wait(container, timeout=timeout, condition="removed")
        except NotFound:
            return True
        except (APIError, RequestException, OSError):  # too late, or the engine could not remove it
            pass
        return self.container(container) is None

    def remove(self, container: str) -> None:
        """Kill and remove a container with its anonymous volumes; no error when it is gone or just going."""
        from docker.errors import APIError, NotFound  # noqa: PLC0415

        try:
            self.api.remove_container(container, force=True, v=True)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:  # 409: "removal … is already in progress"  # noqa: PLR2004
                raise

    def remove_and_wait(self, container: str) -> None:
        """Remove a container and wait until it is gone, which the engine may have begun by itself."""
        self.remove(container)
        if not self.wait_removed(container, ANSWER_TIMEOUT):
            raise EngineRefusedError(container, f"it is still there {ANSWER_TIMEOUT} s after it was to be removed")

    def ours(self) -> Iterator[tuple[str, str, Mapping[str, str]]]:
        """List what carries our labels: kind (container, network or volume), name, labels."""
        found = {"label": OURS}
        for container in self.api.containers(all=True, filters=found):
            yield "container", listed_name(container), container["Labels"]
        for network in self.api.networks(filters=found):
            yield "network", network["Name"], network["Labels"]
        for volume in self.api.volumes(filters=found)["Volumes"] or []:
            yield "volume", volume["Name"], volume["Labels"]


def listed_name(container: Mapping[str, Any]) -> str:
    """Return the name of a container in a list; one that is being removed may have none, and goes by its id."""
    return container["Names"][0].lstrip("/") if container["Names"] else str(container["Id"][:12])
