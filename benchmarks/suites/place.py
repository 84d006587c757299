"""Getting a suite and running it: its sources, its virtual environment, a fresh copy for every run of pytest."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_dind.environment import without_misleading

from . import Suite
from .outcomes import Run, read

#: What is kept between runs: downloads, virtual environments; and what pytest said in the last one.
CACHE = Path(os.environ.get("PYTEST_DIND_CACHE", "/var/cache/pytest-dind")) / "suites"
RESULTS = CACHE / "results"
CHECKOUT = Path(__file__).parents[2]
#: Seconds that one run of a suite may take: ten times what the longest takes.
PATIENCE = 1200

#: What of this process's environment a suite's pytest gets.
_PASSED_ON = ("DOCKER_CERT_PATH", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "HOME", "LANG",
              "LC_ALL", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A suite that can be run."""

    suite: Suite
    archive: Path
    #: The folder of its virtual environment's programs.
    binaries: Path

    @classmethod
    def prepare(cls, suite: Suite) -> Place:
        """Download and install what the suite needs, and this checkout."""
        for program in suite.programs:
            if shutil.which(program) is None:
                raise FileNotFoundError(f"{suite} needs the program {program!r}")
        return cls(suite, _source(suite), _virtual_environment(suite))

    def pytest(self, way: str, *options: str, host: str | None = None) -> Run:
        """Run pytest over a fresh copy of the suite.

        :param way: What its log and its report are called.
        :param host: The DOCKER_HOST; this process's if it is None.
        """
        RESULTS.mkdir(parents=True, exist_ok=True)
        name = RESULTS / f"{self.suite.name}-{way}"
        report = name.with_suffix(".xml")
        report.unlink(missing_ok=True)
        left_out = [f"--deselect={test}" for test in self.suite.left_out]
        command = [str(self.binaries / "pytest"), *self.suite.arguments, *left_out, "-p", "no:cacheprovider",
                   f"--junitxml={report}", *options]  # fmt: skip
        with _copy(self.archive) as folder, name.with_suffix(".log").open("w", encoding="utf-8") as log:
            begin = time.monotonic()
            ended = subprocess.run(
                command, cwd=folder, env=self._environment(host), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, timeout=PATIENCE, check=False,
            )  # fmt: skip
            seconds = time.monotonic() - begin
            if ended.returncode not in (0, 1):  # all passed, some did not
                raise RuntimeError(f"pytest ended with {ended.returncode}, see {log.name}")
            return Run(seconds, read(report, folder))

    def _environment(self, host: str | None) -> dict[str, str]:
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        if host is not None:
            passed_on = {**without_misleading(passed_on), "DOCKER_HOST": host}
        return {**passed_on, **self.suite.environment, "PATH": f"{self.binaries}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def _copy(source: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dind-suite-") as name, tarfile.open(source) as archive:
        # By attribute: Debian bookworm's Python has no argument for it yet.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(name)
        (folder,) = Path(name).iterdir()
        yield folder


def _source(suite: Suite) -> Path:
    """Return the suite's source distribution, downloaded and checked."""
    folder = CACHE / "sources" / suite.requirement
    if not any(folder.glob("*.tar.gz")):
        _pip(Path(sys.executable), "download", "--no-deps", "--no-binary", suite.name, "--dest", str(folder),
             suite.requirement)  # fmt: skip
    (archive,) = folder.glob("*.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != suite.sha256:
        raise ValueError(f"{archive} is not what {suite} was when it was looked at: its sha256 is {found}; remove it")
    return archive


def _virtual_environment(suite: Suite) -> Path:
    """Return the folder of the programs of a virtual environment with the suite's requirements and this checkout."""
    version = ".".join(map(str, sys.version_info[:3]))
    folder = CACHE / "environments" / f"{suite.requirement}-python{version}"
    python, complete = folder / "bin/python", folder / "complete"
    content = "\n".join((suite.requirement, *suite.requirements))
    if not complete.is_file() or complete.read_text(encoding="utf-8") != content:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        _pip(python, "install", suite.requirement, *suite.requirements, str(CHECKOUT))
        complete.write_text(content, encoding="utf-8")
    _pip(python, "install", "--force-reinstall", "--no-deps", str(CHECKOUT))
    return python.parent


def _pip(python: Path, *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(python), "-m", "pip", "--quiet", "--quiet", *arguments], check=True, env=environment)
