"""What daemons of this very process have on this machine, so that a test can tell that nothing is left of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker

from pytest_dind.labels import LEASE
from pytest_dind.owner import Owner
from pytest_dind.places import sockets_dir

from .conftest import wait_until


def remains(host: docker.DockerClient) -> set[str]:
    """Return what is there now: containers, networks and volumes on the host engine, and socket directories."""
    owner = Owner.of_process()
    ours = {"label": f"{LEASE}={owner.lease.label}"}
    api: Any = host.api
    names = [one["Names"][0].lstrip("/") for one in api.containers(all=True, filters=ours)]
    names += [one["Name"] for one in api.networks(filters=ours)]
    names += [one["Name"] for one in api.volumes(filters=ours)["Volumes"] or []]
    return {*names, *map(str, sockets_dir().glob(owner.directory_name(0)[:-1] + "*"))}


@contextmanager
def nothing_new_remains(host: docker.DockerClient) -> Iterator[None]:
    """Fail when the block leaves anything that was not there before."""
    before = remains(host)
    yield
    wait_until(lambda: remains(host) <= before, lambda: f"still there: {remains(host) - before}")
