"""What is in a daemon at one moment, read with one question for each kind of thing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .host import listed_name

#: dockerd makes them anew each time that it starts, and nobody can remove them.
_PREDEFINED = {"bridge", "host", "none"}
#: In a swarm dockerd makes it with the first container that needs it, and has an endpoint in it from then on.
_OF_EVERY_SWARM = {"docker_gwbridge"}
#: What the engine lists of names where an image has none.
_NO_NAME = "<none>:<none>"
#: From here on it says what builds have cached without counting what containers and volumes take on the disk.
_DF_BY_TYPE = (1, 42)
#: What an engine before Docker 23 says while another of its clients has it count all that.
_IS_COUNTING = "a disk usage operation is already running"
#: Seconds in which that should be over, and between two questions.
_COUNTING_TIMEOUT = 10
_EVERY = 0.05
#: What swarm writes on the containers that it has started.
_SERVICE = "com.docker.swarm.service.id"


@dataclass
class Inventory:
    """What there is: of each kind, ids and what people call them."""

    #: No build cache where the engine has not said what is in it.
    things: dict[str, dict[str, str]]
    #: Names of images, and which image each is.
    tags: dict[str, str] = field(default_factory=dict)
    #: Of images that the classic builder made, the one that each was made on.
    parents: dict[str, str] = field(default_factory=dict)
    #: Of containers that belong to a swarm's services, the service, and the names of all volumes in them.
    tasks: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    #: Names of images that a swarm's services run: it pulls those that are not there yet.
    run_by_services: frozenset[str] = frozenset()
    #: Of images, their names and digests.
    references: dict[str, frozenset[str]] = field(default_factory=dict)
    #: The id of the swarm that it manages; for another member of one, what it says of that; empty outside of any.
    swarm: str = ""

    @classmethod
    def of(cls, api: Any) -> Inventory:
        """Ask a daemon.

        :raises OSError: it does not answer, or with an error.
        """
        images, containers = api.images(all=True), api.containers(all=True)
        swarm, is_manager = _swarm(api)
        cached = _build_cache(api)
        services = api.services() if is_manager else []
        not_made = _PREDEFINED | _OF_EVERY_SWARM if swarm else _PREDEFINED
        return cls(
            things={
                **(_of_swarm(api, services) if is_manager else {}),
                "container": {one["Id"]: listed_name(one) for one in containers},
                "image": {one["Id"]: _shown(one) for one in images},
                "network": {one["Id"]: one["Name"] for one in api.networks() if one["Name"] not in not_made},
                "volume": {one["Name"]: one["Name"] for one in api.volumes()["Volumes"] or ()},
                "plugin": {one["Id"]: one["Name"] for one in api.plugins()},
                **({"build cache": {one["ID"]: one["ID"] for one in cached}} if cached is not None else {}),
            },
            tags={tag: one["Id"] for one in images for tag in _tags(one)},
            parents={one["Id"]: one["ParentId"] for one in images if one["ParentId"]},
            tasks={one["Id"]: _task(one) for one in containers if service_of(one)},
            run_by_services=frozenset(name for one in services for name in _names_of_image(one)),
            references={one["Id"]: frozenset([*_tags(one), *(one["RepoDigests"] or ())]) for one in images},
            swarm=swarm,
        )

    def came_since(self, before: Inventory, kind: str) -> dict[str, str]:
        """Return what of a kind was not there before, nor is a swarm's for a service that was."""
        known = {*before.things.get(kind, {}), *self._of_services_in(before)}
        return {one: name for one, name in self.things.get(kind, {}).items() if one not in known}

    def _of_services_in(self, before: Inventory) -> Iterator[str]:
        """Yield the containers with which a swarm keeps up services from before, their volumes and images."""
        for image, names in self.references.items():
            if not names.isdisjoint(before.run_by_services):
                yield image
        for container, (service, volumes) in self.tasks.items():
            if service in before.things.get("service", {}):
                yield container
                yield from volumes

    def add_what_came(self, before: Inventory, after: Inventory) -> None:
        """Take what came between two others for what was there from the first."""
        for kind in after.things:
            self.things.setdefault(kind, {}).update(after.came_since(before, kind))
        for tag in before.tags.keys() - after.tags.keys():
            self.tags.pop(tag, None)
        self.tags.update({tag: one for tag, one in after.tags.items() if before.tags.get(tag) != one})
        if after.swarm != before.swarm:
            self.swarm = after.swarm


def _tags(image: Mapping[str, Any]) -> list[str]:
    return [tag for tag in image["RepoTags"] or () if tag != _NO_NAME]


def _shown(image: Mapping[str, Any]) -> str:
    return next(iter(_tags(image)), str(image["Id"]).removeprefix("sha256:")[:12])


def service_of(container: Mapping[str, Any]) -> str:
    """Return the id of the swarm's service that a container, as it is listed, belongs to; empty if to none."""
    return str((container["Labels"] or {}).get(_SERVICE, ""))


def _task(container: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    volumes = frozenset(one["Name"] for one in container["Mounts"] if one["Type"] == "volume")
    return service_of(container), volumes


def _specified(things: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    return ((one["ID"], one["Spec"]["Name"]) for one in things)


def _of_swarm(api: Any, services: list[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    found = {"service": services, "secret": api.secrets(), "config": api.configs()}
    return {kind: dict(_specified(things)) for kind, things in found.items()}


def _names_of_image(service: Mapping[str, Any]) -> Iterator[str]:
    """Yield what images are called that a service may run: it has one by a name, by a digest, or by both."""
    # One that is a network attachment, or a plugin, has none.
    said: str = service["Spec"]["TaskTemplate"].get("ContainerSpec", {}).get("Image", "")
    name, _, digest = said.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # of a registry's port
        repository, tag = name, "latest"
    yield f"{repository}:{tag}"
    yield f"{repository}@{digest}"


def _swarm(api: Any) -> tuple[str, bool]:
    """Return the id of the daemon's swarm, or what it says of one that it cannot ask; and whether it can."""
    from docker.errors import APIError  # noqa: PLC0415

    try:
        return api.inspect_swarm()["ID"], True
    except APIError as error:
        said = str(error.explanation)
        # `docker info` would say it too, and first asks runc and others for their versions.
        return ("" if "docker swarm init" in said else said), False


def _build_cache(api: Any) -> Iterable[Mapping[str, Any]] | None:
    """Return what builds have cached; None where the engine is still busy with counting for somebody else."""
    deadline = time.monotonic() + _COUNTING_TIMEOUT
    # docker-py's own `df` cannot be asked for one kind only.
    while _IS_COUNTING in (answer := api.get(_df(api), timeout=api.timeout)).text:
        if time.monotonic() > deadline:
            return None
        time.sleep(_EVERY)
    if not answer.ok:
        raise OSError(f"it does not say what builds have cached: {answer.text.strip()}")
    found = answer.json()
    # From API 1.52 on it has another name: https://docs.docker.com/reference/api/engine/version-history/
    return found.get("BuildCache") or found.get("BuildCacheUsage", {}).get("Items") or ()


def _df(api: Any) -> str:
    version = tuple(map(int, api.api_version.split(".")))
    question = f"{api.base_url}/v{api.api_version}/system/df"
    return question if version < _DF_BY_TYPE else f"{question}?type=build-cache&verbose=1"
