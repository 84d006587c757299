"""The checks of `pytest-dind doctor`, from the host engine to containers in a throw-away daemon, in order.

Each goes on as far as it makes sense after one that failed: without an engine there is nothing more to check.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import caveats
from .container import BaseTemp
from .context import engine_address, root_cause
from .daemon import Daemon
from .errors import DaemonStartError, DindError, DindWarning, EngineRefusedError
from .facts import Facts
from .finding import Finding
from .gathering import gather
from .host import HostEngine
from .inspection import inspect
from .pulling import pull
from .route import around, route_to
from .settings import Settings
from .sweep import sweep
from .trial import PORT

Findings = Iterator[Finding]


def examine(settings: Settings) -> Generator[Finding, None, None]:
    """Yield what each check finds. When it is closed, or interrupted, nothing is left of what it has started."""
    with ExitStack() as stack:
        engine = yield from _engine(stack)
        if engine is None:
            return
        yield from guarded("place", lambda: _place(engine))
        is_reached = yield from _transport(engine, settings)
        settings = dataclasses.replace(settings, image=engine.image_named(settings.image))
        has_image = yield from _image(engine, settings.image)
        known = _known(engine, settings)
        if is_reached and has_image:
            yield from _daemon(engine, settings, known)
        yield from guarded("leftovers", lambda: _leftovers(engine))
        yield from guarded("caveats", lambda: _caveats(known or _gathered(engine, settings)))


def guarded(check: str, look: Callable[[], Findings]) -> Findings:
    """Yield what a check finds; an engine or a daemon that no longer answers is a finding, too."""
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        yield from look()
    except (DindError, DockerException, OSError) as error:
        yield Finding(check, str(getattr(error, "explanation", None) or error), "failed")


# -- the engine


def _engine(stack: ExitStack) -> Generator[Finding, None, HostEngine | None]:
    address, source = engine_address()
    named = {"address": address, "source": source}
    try:
        engine = HostEngine.connect()
        stack.callback(engine.close)
        info, version = engine.info, engine.version["Version"]
    except (DindError, OSError) as error:
        yield _no_engine(error, named)
        return None
    cgroup = info.get("CgroupVersion", "1")
    yield Finding(
        "host engine",
        f"Docker {version} at {address} ({source}); {info.get('OperatingSystem')}, kernel {info.get('KernelVersion')}, "
        f"{info.get('Driver')}, cgroup v{cgroup}",
        facts={
            **named,
            "version": version,
            "api_version": engine.version["ApiVersion"],
            "kernel": info.get("KernelVersion"),
            "storage_driver": info.get("Driver"),
            "cgroup_version": cgroup,
        },
    )
    return engine


def _no_engine(error: BaseException, named: dict[str, str]) -> Finding:
    if error.__cause__ is None:  # It answers and is too old, or ssh does not get there: all is said.
        return Finding("host engine", str(error), "failed", facts=named)
    cure = "Start Docker there, or set DOCKER_HOST to an engine that runs; 'docker info' must work."
    if isinstance(_root(error), PermissionError):
        cure = (
            "Give this user the group of the socket, mostly: sudo usermod -aG docker USER, and log in anew; "
            "in a container: docker run --group-add GID."
        )
    finding = f"no Docker engine answers at {named['address']} ({named['source']}): {root_cause(error)}"
    return Finding("host engine", finding, "failed", cure, named)


def _root(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _place(engine: HostEngine) -> Findings:
    here = around(engine)
    where = "this process runs in no container"
    if here.container:
        where = f"this process runs in container {here.container.name} of this engine"
    elif here.container_sign:
        where = f"this process runs in a container that this engine does not run ({here.container_sign})"
    kinds = {
        "Docker Desktop": here.engine_is_desktop,
        "Podman": here.engine_is_podman,
        "rootless": here.engine_is_rootless,
        "itself in a container": here.engine_is_in_container,
    }
    kind = [name for name, is_it in kinds.items() if is_it]
    ci = f"started by {here.ci.system}{f' (build {here.ci.build})' if here.ci.build else ''}" if here.ci.system else ""
    facts = {
        "container": here.container.name if here.container else "",
        "container_sign": here.container_sign,
        "ci": here.ci.system,
        "build": here.ci.build,
        "engine": kind,
    }
    said = [where, ci or "no CI system", f"the engine is {', '.join(kind)}" if kind else ""]
    yield Finding("place", "; ".join(filter(None, said)), facts=facts)


def _transport(engine: HostEngine, settings: Settings) -> Generator[Finding, None, bool]:
    try:
        route = route_to(engine, settings)
    except (DindError, OSError) as error:
        yield Finding("transport", str(error), "failed")
        return False
    yield Finding("transport", str(route), facts={"transport": route.kind, "why": route.why})
    return True


# -- the image and the daemon


def _image(engine: HostEngine, name: str) -> Generator[Finding, None, bool]:
    cure = (
        "Mind the spelling; pull or build it on the host engine, or name another, with --image, PYTEST_DIND_IMAGE or "
        "--dind-image."
    )
    try:
        found = engine.image(name)
        failure = "" if found else pull(engine.api, name)
        identity = (found or engine.image(name) or {}).get("Id", "")
    except (DindError, OSError) as error:
        yield Finding("image", str(error), "failed", cure)
        return False
    if failure:
        missing = f"{name} is not on the host engine, and pulling it failed: {failure}"
        yield Finding("image", missing, "failed", cure, {"image": name})
        return False
    how = "is on the host engine" if found else "was not on the host engine and has been pulled"
    yield Finding("image", f"{name} {how}", facts={"image": name, "id": identity, "pulled": not found})
    return True


def _daemon(engine: HostEngine, settings: Settings, known: Facts | None) -> Findings:
    with tempfile.TemporaryDirectory(prefix="pytest-dind-doctor-") as directory:
        base_temp = BaseTemp(Path(directory), Path(directory))
        try:
            # Where its address is reached, the port is so without being asked for.
            daemon = Daemon.start(dataclasses.replace(settings, port=(PORT,)), engine=engine, base_temp=base_temp)
        except (DindError, OSError) as error:
            yield _no_daemon(error)
            return
        with ExitStack() as stack:
            left = stack.enter_context(_warned())
            stack.callback(daemon.stop)
            seconds = round(daemon.start_seconds, 3)
            facts = {"name": daemon.name, "seconds": seconds}
            yield Finding("daemon", f"one started in {seconds:.2f} s ({daemon.name})", facts=facts)
            seen = Path(directory) if route_to(engine, settings).seen(Path(directory)) else None
            for check, look in inspect(daemon, seen, known):
                yield from guarded(check, look)
    for warning in left:
        yield Finding("daemon's end", warning, "failed")


@contextmanager
def _warned() -> Iterator[list[str]]:
    """Collect what is warned of at the end of a daemon: what could not be removed."""
    said: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        said += [str(one.message) for one in caught if issubclass(one.category, DindWarning)]


def _no_daemon(error: BaseException) -> Finding:
    if isinstance(error, DaemonStartError):
        last = error.log.splitlines()[-1] if error.log.strip() else "(its log is empty)"
        because = error.cause or f"Its last words: {last}"
        return Finding("daemon", f"{error.reason}. {because}", "failed", error.cure, {"log": error.log})
    if isinstance(error, EngineRefusedError):
        refused = f"the host engine refuses to run its container: {error.answer}. {error.cause}"
        return Finding("daemon", refused, "failed", error.cure)
    return Finding("daemon", str(error), "failed")


# -- what is known without one


def _known(engine: HostEngine, settings: Settings) -> Facts | None:
    try:
        return _gathered(engine, settings)
    except (DindError, OSError):  # The check of caveats says so.
        return None


def _gathered(engine: HostEngine, settings: Settings) -> Facts:
    return gather(
        around(engine),
        [settings],
        base_temp=BaseTemp(Path(tempfile.gettempdir()), None),
        project=os.getcwd(),  # noqa: PTH109 (a text)
        workers=os.cpu_count() or 1,
    )


def _leftovers(engine: HostEngine) -> Findings:
    swept = sweep(engine, dry_run=True)
    if not swept.removed:
        yield Finding("leftovers", "dead runs have left nothing")
        return
    cure = "The next run removes it, and so does: pytest-dind prune"
    yield Finding("leftovers", f"dead runs have left {swept}", "warning", cure, swept.removed)


def _caveats(known: Facts) -> Findings:
    found = [(caveat, what) for caveat, what in caveats.applying(known) if caveat.id != "inotify"]
    for caveat, what in found:
        facts = {"id": caveat.id, "what": caveat.what}
        yield Finding(caveat.id, f"{caveat.what} Here: {what}.", "warning", caveat.cure, facts)
    if not found:
        yield Finding("caveats", "none applies")
