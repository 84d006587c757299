"""Where this process runs: which CI system, which container, which networks and mounts, and on what engine.

It reads the kernel's files and asks the engine for nothing outside of a container, and there for the container.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .host import HostEngine
from .owncontainer import Mount, OwnContainer, find_itself
from .procfs import Listener, MountPoint, Process, container_sign, mount_points

_UNIX_SCHEMES = ("unix", "http+unix")
#: What an engine in a container has for a hostname unless it was given one.
_CONTAINERS_HOSTNAME = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class Ci:
    """The CI system that started this process."""

    #: Jenkins, GitLab, GitHub or Kubernetes; nothing outside of all of them.
    system: str = ""
    #: What the system calls this build, for a label.
    build: str = ""


def ci_system(environ: Mapping[str, str]) -> Ci:
    """Return the CI system that an environment is of."""
    build = environ.get("BUILD_TAG", "")
    # JENKINS_URL is set only where the administrator has set it, BUILD_TAG is always, and has slashes in folders.
    if build.startswith("jenkins-") or environ.get("JENKINS_HOME") or environ.get("JENKINS_URL"):
        return Ci("Jenkins", build)
    if environ.get("GITLAB_CI"):
        return Ci("GitLab", environ.get("CI_JOB_ID", ""))
    if environ.get("GITHUB_ACTIONS"):
        return Ci("GitHub", environ.get("GITHUB_RUN_ID", ""))
    return Ci("Kubernetes" if environ.get("KUBERNETES_SERVICE_HOST") else "")


@dataclass(frozen=True)
class Surroundings:
    """Where this process runs."""

    ci: Ci
    #: By what one sees that this process is in a container; nothing where it is not.
    container_sign: str
    #: That container, where the engine in use is the one that runs it.
    container: OwnContainer | None
    engine: HostEngine = field(repr=False, compare=False)
    #: Who listens on the engine's unix socket, where it has one.
    listener: Listener | None
    mount_points: tuple[MountPoint, ...] = field(repr=False)
    hostname: str

    @classmethod
    def of(
        cls, engine: HostEngine, environ: Mapping[str, str] = os.environ, process: Process | None = None
    ) -> Surroundings:
        """Look around; one request to the engine, in a container only (more where containers share a network).

        :param process: What it reads of itself; None for this process.
        """
        process = process or Process.read()
        sign = container_sign(process, environ)
        scheme, _, path = engine.address.partition("://")
        return cls(
            ci=ci_system(environ),
            container_sign=sign,
            container=find_itself(engine, process) if sign else None,
            engine=engine,
            listener=Listener.at(path) if scheme in _UNIX_SCHEMES else None,
            mount_points=tuple(mount_points(process.mountinfo)),
            hostname=process.hostname,
        )

    # -- the engine

    @property
    def engine_scheme(self) -> str:
        """How the engine is reached: unix, tcp, ssh, npipe."""
        return self.engine.address.partition("://")[0].removeprefix("http+")

    @property
    def engine_is_local(self) -> bool:
        """Whether the engine is reached without a network; in a container that may be the machine's, or a sidecar's."""
        return self.engine_scheme in ("unix", "npipe")

    @property
    def engine_is_beside(self) -> bool:
        """Whether the engine is where this process is: the same machine or container, and so the same localhost."""
        if not self.engine_is_local or self.container:
            return False
        if self.listener is None or self.listener.pid == 0:
            # Outside of a container: another system than Linux, where Docker Desktop sees to it.
            return not self.container_sign
        if self.listener.may_forward and self.engine.info.get("Name") != self.hostname:
            return False
        return not self.listener.is_nested

    @property
    def engine_is_beyond_its_socket(self) -> bool:
        """Whether the engine's unix socket is here and its machine is not: forwarded, or shared with another container.

        An engine that sees our own network calls itself by our hostname.
        """
        if not self.engine_is_local or self.container or self.listener is None:
            return False
        from_elsewhere = bool(self.container_sign) if self.listener.pid == 0 else self.listener.may_forward
        return from_elsewhere and not self.engine_is_desktop and self.engine.info.get("Name") != self.hostname

    @property
    def engine_is_desktop(self) -> bool:
        """Whether it is Docker Desktop, in a virtual machine of its own."""
        platform = (self.engine.version.get("Platform") or {}).get("Name") or ""
        return platform.startswith("Docker Desktop") or self.engine.info.get("OperatingSystem") == "Docker Desktop"

    @property
    def engine_is_podman(self) -> bool:
        """Whether it is Podman, which answers as Docker does."""
        return any(part.get("Name") == "Podman Engine" for part in self.engine.version.get("Components") or ())

    @property
    def engine_is_rootless(self) -> bool:
        """Whether the engine runs as a user that is not root."""
        return any("name=rootless" in option for option in self.engine.info.get("SecurityOptions") or ())

    @property
    def engine_is_in_container(self) -> bool:
        """Whether the engine itself runs in a container, as far as can be told: ours would be two layers deep.

        Its own words, "(containerized)", go by its cgroup, and those in a cgroup namespace of their own see none.
        """
        if (self.engine_is_beside and self.container_sign) or (self.listener and self.listener.is_nested):
            return True
        said = str(self.engine.info.get("OperatingSystem", ""))
        return "(containerized)" in said or bool(_CONTAINERS_HOSTNAME.fullmatch(self.engine.info.get("Name", "")))

    # -- paths

    def translate(self, path: str | os.PathLike[str]) -> Path | None:
        """Return where a path of ours lies on the engine's machine, for a bind mount; None where it does not."""
        real = os.path.realpath(path)
        if self.container:
            mount = self.mount_of(path)
            return mount.source / Path(real).relative_to(mount.destination) if mount else None
        # An engine in a container sees what was mounted there at the same place; one that only forwards sees nothing.
        looks = self.listener and self.listener.pid and not self.listener.may_forward
        seen = self.listener.sees(real) if looks and self.listener else None
        return Path(real) if seen or (seen is None and self.engine_is_beside) else None

    def mount_of(self, path: str | os.PathLike[str]) -> Mount | None:
        """Return the mount of our container that a path lies on; None if it is in the container's own file system."""
        real = os.path.realpath(path)
        # What was mounted by somebody else, as a tmpfs is, hides what the engine knows of.
        covering = _longest(real, [mount.path for mount in self.mount_points])
        mounts = {str(mount.destination): mount for mount in self.container.mounts} if self.container else {}
        return mounts.get(covering)

    def is_on_a_mount(self, path: str | os.PathLike[str]) -> bool:
        """Whether what is written to a path can outlive the container that this process runs in."""
        if self.container:
            return self.mount_of(path) is not None
        covering = _longest(os.path.realpath(path), [mount.path for mount in self.mount_points])
        return covering != "/" and self.file_system_of(path) != "tmpfs"

    def file_system_of(self, path: str | os.PathLike[str]) -> str:
        """Return the kind of file system that a path lies on, as this process sees it."""
        kinds = {mount.path: mount.kind for mount in self.mount_points}
        return kinds.get(_longest(os.path.realpath(path), list(kinds)), "")


def _longest(path: str, directories: list[str]) -> str:
    above = [one for one in directories if one in ("/", path) or path.startswith(one + "/")]
    return max(above, key=len, default="")
