"""Removing what has come into a daemon since an inventory, and putting names of images back where they were."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import DaemonStateError
from .inventory import Inventory, service_of

if TYPE_CHECKING:
    from docker.errors import APIError

#: Containers that are removed at a time: the daemon ends them side by side.
_AT_A_TIME = 8
#: Seconds in which what is being removed already should be gone, and between two looks whether it is.
_GOING_TIMEOUT = 10
_EVERY = 0.02
#: So often containers are removed that others have started while those were removed.
_MOST_ROUNDS = 5
#: What an engine says of a container whose end somebody else, such as `--rm`, brings about.
_IS_GOING = "already in progress"
#: What one says of a network that containers are connected to.
_IS_USED = "active endpoints"


class Cleaning:
    """One pass over a daemon; `refused` is what would not go, each with the daemon's reason."""

    def __init__(self, api: Any, before: Inventory, ends: Mapping[str, Callable[[], object]] | None = None) -> None:
        """Prepare it.

        :param ends: How containers end in order, by name, where there is another way than to kill them.
        """
        self._api = api
        self._ends = ends or {}
        self._before = before
        self._now = before
        self._has_swarm = False
        self.refused: list[str] = []
        #: Names of images from before that cannot be put back, as their image is gone, and ids of such without a name.
        self.lost: set[str] = set()

    def run(self) -> None:
        """Remove what has come, each kind before those that it uses.

        :raises OSError: the daemon does not answer.
        """
        api = self._api
        self._now = Inventory.of(api)
        self._has_swarm = bool(self._now.swarm)
        if self._has_swarm and self._now.swarm != self._before.swarm:
            self._attempt("swarm", self._now.swarm, partial(api.leave_swarm, force=True))
            self._now = Inventory.of(api)  # Its services, their containers and its networks have gone with it.
        self._end_in_order()
        self._remove("service", api.remove_service)
        self._remove_containers()
        self._clean_images()
        self._remove_networks()
        self._remove("volume", partial(api.remove_volume, force=True))
        self._remove("secret", api.remove_secret)
        self._remove("config", api.remove_config)
        self._remove("plugin", partial(api.remove_plugin, force=True))
        self._prune_build_cache()

    def _end_in_order(self) -> None:
        ends = [self._ends[name] for name in self._came("container").values() if name in self._ends]
        for end in ends:
            end()
        if ends:
            self._now = Inventory.of(self._api)

    def _came(self, kind: str) -> dict[str, str]:
        return self._now.came_since(self._before, kind)

    def _remove(self, kind: str, remove: Callable[[str], object]) -> None:
        self._remove_each(kind, self._came(kind), remove)

    def _remove_each(self, kind: str, came: Mapping[str, str], remove: Callable[[str], object]) -> None:
        for identity, name in came.items():
            self._attempt(kind, name, partial(remove, identity))

    def _attempt(self, kind: str, name: str, remove: Callable[[], object]) -> None:
        from docker.errors import APIError, NotFound  # noqa: PLC0415

        try:
            remove()
        except NotFound:  # it went with another
            pass
        except APIError as error:
            self.refused.append(f"{kind} {name}: {error.explanation}")
        except DaemonStateError as error:
            self.refused.append(f"{kind} {name}: {error}")
        except OSError as error:
            raise OSError(f"{kind} {name}: {error}") from error

    def _remove_containers(self) -> None:
        """Remove those that came, and those that these, or others, have started meanwhile."""
        tried: set[str] = set()
        for _ in range(_MOST_ROUNDS):
            came = {one: name for one, name in self._came("container").items() if one not in tried}
            self._remove_side_by_side(came)
            tried.update(came)
            if not came or not self._has_more(tried):
                return
            self._now = Inventory.of(self._api)
        self.refused.append(f"containers: new ones came as fast as others were removed, {_MOST_ROUNDS} times")

    def _has_more(self, tried: set[str]) -> bool:
        known = {*tried, *self._before.things["container"]}
        services = self._before.things.get("service", {})
        return any(one["Id"] not in known and service_of(one) not in services for one in self._api.containers(all=True))

    def _remove_side_by_side(self, came: Mapping[str, str]) -> None:
        if len(came) <= 1:
            for identity, name in came.items():
                self._attempt("container", name, partial(self._remove_container, identity))
            return
        with ThreadPoolExecutor(min(len(came), _AT_A_TIME), "dind_clean") as threads:
            done = [
                threads.submit(self._attempt, "container", name, partial(self._remove_container, identity))
                for identity, name in came.items()
            ]
        for one in done:
            one.result()

    def _remove_container(self, identity: str) -> None:
        """Kill it, without any grace period, and remove it with its anonymous volumes."""
        from docker.errors import APIError  # noqa: PLC0415

        try:
            self._api.remove_container(identity, force=True, v=True)
        except APIError as error:
            if _IS_GOING not in str(error.explanation):
                raise
            self._wait_until_gone(identity, error)

    def _wait_until_gone(self, container: str, failure: Exception) -> None:
        deadline = time.monotonic() + _GOING_TIMEOUT
        while any(one["Id"] == container for one in self._api.containers(all=True)):
            if time.monotonic() > deadline:
                raise failure
            time.sleep(_EVERY)

    def _remove_networks(self) -> None:
        """Remove them again while that helps: one goes after all that are made from it, and a swarm takes its time."""
        left, known = self._came("network"), len(self.refused)
        deadline = time.monotonic() + _GOING_TIMEOUT
        while left:
            del self.refused[known:]
            self._remove_each("network", left, self._remove_network)
            if not self._has_swarm and len(self.refused) == known:
                return
            there = {one["Id"] for one in self._api.networks()}
            helped = any(one not in there for one in left)
            left = {one: name for one, name in left.items() if one in there}
            if not helped:
                if not self._has_swarm or time.monotonic() > deadline:
                    break
                time.sleep(_EVERY)  # It lets go of them behind the back of all who ask it to.
        if not left:
            del self.refused[known:]  # Such as that it is not found any more.
        elif len(self.refused) == known:
            names = ", ".join(left.values())
            self.refused.append(f"network {names}: still there {_GOING_TIMEOUT} s after the daemon has removed it")

    def _remove_network(self, identity: str) -> None:
        from docker.errors import APIError  # noqa: PLC0415

        try:
            self._api.remove_network(identity)
        except APIError as error:
            if not self._disconnect(identity, error):
                raise
            self._api.remove_network(identity)

    def _disconnect(self, network: str, error: APIError) -> bool:
        """Take containers from before off a network that came; whether there were any."""
        if _IS_USED not in str(error.explanation):
            return False
        connected = self._api.inspect_network(network)["Containers"]
        ours = [one for one in connected if one in self._before.things["container"]]
        for one in ours:
            self._api.disconnect_container_from_network(one, network, force=True)
        return bool(ours)

    def _clean_images(self) -> None:
        there = self._now.things["image"]
        for tag, identity in self._before.tags.items():
            if self._now.tags.get(tag) != identity:
                if identity in there:
                    self._attempt("image", tag, partial(self._name, identity, tag))
                else:
                    self.lost.add(tag)
        named_before = set(self._before.tags.values())
        self.lost.update(self._before.things["image"].keys() - there.keys() - named_before)
        came = self._came("image")
        for tag, identity in self._now.tags.items():
            if tag in self._before.tags or identity not in self._before.things["image"]:
                continue
            if identity in named_before:
                # Not its parents: what was there before stays, with a name or without.
                self._attempt("image", tag, partial(self._api.remove_image, tag, force=True, noprune=True))
            else:
                self.refused.append(f"image {tag}: it is the only name of an image from before, which would go with it")
        for identity in children_first(came, self._now.parents):
            remove = partial(self._api.remove_image, identity, force=True, noprune=True)
            self._attempt("image", came[identity], remove)

    def _name(self, identity: str, tag: str) -> None:
        repository, _, version = tag.rpartition(":")
        self._api.tag(identity, repository, version)

    def _prune_build_cache(self) -> None:
        if not all("build cache" in one.things for one in (self._before, self._now)):
            self.refused.append(
                "build cache: it did not say what is in it, as it was busy with that for another client"
            )
            return
        came = self._came("build cache")
        if came:
            # The engine takes one id only, and it is a regular expression for BuildKit:
            # https://github.com/moby/moby/blob/v28.5.2/builder/builder-next/builder.go (toBuildkitPruneInfo)
            prune = partial(self._api.prune_builds, filters={"id": f"^({'|'.join(came)})$"}, all=True)
            self._attempt("build cache", f"({len(came)} records)", prune)


def children_first(images: Iterable[str], parents: Mapping[str, str]) -> list[str]:
    """Put images in an order in which each comes before the one that it was made on."""
    left = dict.fromkeys(images)
    order: list[str] = []
    while left:
        needed = {parents.get(one) for one in left}
        leaves = [one for one in left if one not in needed]
        order += leaves
        for one in leaves:
            del left[one]
    return order
