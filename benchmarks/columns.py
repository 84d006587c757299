"""The columns of `compare`: ours, the peers and the floor, all of them with the same engine out of the same image."""

from __future__ import annotations

from collections.abc import Iterator

from . import floor, peers

OURS = "pytest-dind"
BY_HAND = "docker run"
TESTCONTAINERS = "testcontainers-python"
DOCKER_TOOLS = "pytest-docker-tools"
FLOOR = "bare dockerd"
#: The columns, and each one's fixture.
COLUMNS = {
    OURS: "adopted",
    BY_HAND: "by_hand",
    TESTCONTAINERS: "with_testcontainers",
    DOCKER_TOOLS: "with_docker_tools",
    FLOOR: "bare",
}
PEERS = (BY_HAND, TESTCONTAINERS, DOCKER_TOOLS)

NOTES = (
    "all columns: the same engine, out of the same image; its version is asked for in each of them",
    "docker run: docker:dind with its own entrypoint, TLS and new certificates, as in any fresh CI job",
    "docker run as documented has volumes for the certificates, where the second start with the same ones finds them",
    "docker run: by Docker's SDK, which is faster than the command; until it answers by TLS",
    "testcontainers-python: LogMessageWaitStrategy('API listen on') as it comes, then the same; its reaper is disabled",
    "pytest-docker-tools: container(…, privileged=True, ports={'2376/tcp': None}, timeout=600), then the same",
    "bare dockerd: containerd and dockerd with no container around; with an image: on a data root that has it already",
    "every daemon is a fixture of a pytest process, one for each of those that start at once; its start is not counted",
    "370 MB: in ours, from the image store, filled before; in the peers, by `docker save` into `docker load`",
    "clean: ours is all that dind_clean does around a test, the check-up too; peers remove what they made",
    "clean: in the peers' daemons, the same things are removed by name, with force, one after the other",
    "suites: wall time of pytest, from its start to its end; ours with lookahead of 1",
)


def missing() -> Iterator[tuple[str, str]]:
    """Yield who cannot be measured here, and why."""
    if not peers.HAVE_TESTCONTAINERS:
        yield TESTCONTAINERS, "testcontainers is not installed"
    if not peers.HAVE_DOCKER_TOOLS:
        yield DOCKER_TOOLS, "pytest-docker-tools is not installed"
    why_not = floor.why_not()
    if why_not:
        yield FLOOR, why_not
