"""What the user reads of the daemons: the header, sections on failure, the summary."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .daemon import Daemon
from .disk import Kept
from .host import HostEngine, listed_name
from .route import route_to
from .settings import Settings
from .sweep import Swept

#: What a section shows at most: enough to see what went wrong, and not a whole run's log in every failure.
MOST_LOG_LINES = 200
MOST_CONTAINERS = 10
MOST_CONTAINER_LINES = 50
MOST_LINE = 2000
#: Seconds that a daemon may take to answer here: a report must not hang on one that a test has broken.
ANSWER_TIMEOUT = 10


def header(engine: HostEngine, settings: Sequence[Settings], swept: Swept, by_memory: int | None) -> str:
    """Return the header line: where daemons are started, from what, and what was found.

    :param by_memory: How many workers there are, if that is for want of memory.
    """
    info = engine.info
    images = ", ".join(engine.image_named(one.image) for one in settings)
    line = (
        f"dind: host engine Docker {engine.version['Version']} at {engine.address} "
        f"({info.get('Driver')}, cgroup v{info.get('CgroupVersion', '1')}); image {images}; "
        f"transport {route_to(engine, settings[0])}"
    )
    line += f"; {by_memory} worker{'s' * (by_memory > 1)}, by memory" if by_memory else ""
    return line + (f"; removed what dead runs left: {swept}" if swept.removed else "")


def sections(daemon: Daemon, since: int) -> Iterator[tuple[str, str]]:
    """Return the sections for a failed test: the daemon's log, its containers and their logs.

    Their names begin with "log", so that pytest shows and hides them, and writes them to junit-xml, as its own.
    """
    yield f"log of {daemon.name}", _last(daemon.logs(since), MOST_LOG_LINES) or "(nothing in this test)\n"
    client = daemon.connect(ANSWER_TIMEOUT)
    try:
        containers: Any = client.api.containers(all=True)
        yield f"log: docker ps -a in {daemon.name}", _table(containers)
        for container in containers[:MOST_CONTAINERS]:
            name = listed_name(container)
            yield f"log of container {name} in {daemon.name}", _container_log(client.api, container["Id"])
    except OSError as error:  # the test has broken the daemon; docker-py's errors are OSErrors by way of requests'
        yield f"log: docker ps -a in {daemon.name}", f"(the daemon does not answer: {error})\n"
    finally:
        client.close()


def _container_log(api: Any, identity: str) -> str:
    from docker.errors import APIError  # noqa: PLC0415

    try:
        return _last(api.logs(identity, tail=MOST_CONTAINER_LINES).decode(errors="replace"), MOST_CONTAINER_LINES)
    except APIError as error:  # removed meanwhile, or a log driver that cannot be read
        return f"({error.explanation})\n"


def _table(containers: Iterable[Mapping[str, Any]]) -> str:
    rows = [("CONTAINER ID", "IMAGE", "COMMAND", "STATUS", "NAMES")]
    rows += [(one["Id"][:12], one["Image"], one["Command"][:40], one["Status"], listed_name(one)) for one in containers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def _last(text: str, lines: int) -> str:
    found = text.splitlines()
    shown = "".join(f"{line[:MOST_LINE]}\n" for line in found[-lines:])
    return (f"(the last {lines} of {len(found)} lines)\n" if len(found) > lines else "") + shown


def summary(news: Sequence[Mapping[str, Any]], removed: Swept, stores: Kept, *, brief: bool) -> list[str]:
    """Return the summary: daemons started, how long that took, what was removed, and what was not.

    :param stores: What the image stores hold after the run.
    :param removed: What was still there when the run had ended, and had to be removed by hand.
    :param brief: Say only what is still there, and what tests have broken.
    """
    return [*([] if brief else _what_happened(news, removed, stores)), *_what_to_know(news, removed)]


def _what_happened(news: Sequence[Mapping[str, Any]], removed: Swept, stores: Kept) -> list[str]:
    seconds = [one["seconds"] for one in news if "started" in one]
    lines = []
    if seconds:
        kept = sum("kept" in one for one in news)
        gone = "all removed with their volumes" if not kept else f"{kept} kept"
        if kept and kept < len(seconds):
            gone += ", the others removed with their volumes"
        if removed.failed or any("left" in one for one in news):
            gone = "not all could be removed"
        times = f"median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s"
        lines.append(f"dind: {len(seconds)} daemon{'s' * (len(seconds) > 1)} started ({times}); {gone}")
    if removed.removed:
        lines.append(f"dind: removed what crashed workers left: {removed}")
    if str(stores) and (stores.removed or stores.failed or any("store" in one for one in news)):
        lines.append(f"dind: {stores}")
    return lines


def _what_to_know(news: Sequence[Mapping[str, Any]], removed: Swept) -> list[str]:
    lines = [f"dind: not removed: {failure}" for failure in removed.failed]
    for one in news:
        if "replaced" in one:
            what = f"{one['after']} broke it ({one['complaint']})"
            anew = f"; set up anew with what they had in it: {', '.join(one['renewed'])}" if one["renewed"] else ""
            lines.append(f"dind: the session daemon {one['replaced']} was replaced: {what}{anew}")
        if "broken" in one:
            what = f"{one['after']}, the last test to use it, broke it ({one['complaint']})"
            lines.append(f"dind: the session daemon {one['broken']} was broken in the end: {what}")
        if "left" in one:
            lines.append(f"dind: not removed: {one['left']}")
        if "kept" in one:
            lines.append(f"dind: kept {one['kept']}: export {one['export']}")
            lines.append(f"dind:   remove it with: docker rm -fv {one['kept']}")
    return lines
