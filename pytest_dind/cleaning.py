"""What a test left in a daemon, and removing it: everything that was not there before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import docker


class Snapshot:
    """What is in a daemon at one moment."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._api: Any = client.api
        self._before = set(self._present())

    def clean(self) -> list[str]:
        """Remove what has come since; return what would not go, each with the daemon's reason."""
        from docker.errors import APIError, NotFound  # noqa: PLC0415

        remove = {
            "container": lambda name: self._api.remove_container(name, force=True, v=True),
            "image": lambda name: self._api.remove_image(name, force=True),
            "network": self._api.remove_network,
            "volume": lambda name: self._api.remove_volume(name, force=True),
        }
        refused = []
        try:
            left = [found for found in self._present() if found not in self._before]
        except OSError:  # the test has broken the daemon; the next test gets a new one
            return []
        # In the order in which they are listed: containers use all the others.
        for kind, name in left:
            try:
                remove[kind](name)
            except NotFound:  # it went with another
                pass
            except APIError as error:
                refused.append(f"{kind} {name}: {error.explanation}")
        return refused

    def _present(self) -> Iterator[tuple[str, str]]:
        for container in self._api.containers(all=True):
            yield "container", container["Id"]
        for image in self._api.images():
            # A tag that the test gave to an image from before is the test's too.
            for tag in image["RepoTags"] or []:
                if tag != "<none>:<none>":
                    yield "image", tag
            yield "image", image["Id"]
        for network in self._api.networks():
            yield "network", network["Id"]
        for volume in self._api.volumes()["Volumes"] or []:
            yield "volume", volume["Name"]
