"""What `pip install` gives: from the source tree and from the wheel, each in a new virtual environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

import pytest_dind

ROOT = Path(pytest_dind.__file__).parent.parent

pytestmark = [
    pytest.mark.skipif(
        not (ROOT / "pyproject.toml").exists(), reason="the tests run on an installed package, without its source tree"
    ),
    pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling, which builds the package, is not installed"),
    pytest.mark.once,
]

#: Nothing is fetched: hatchling is one of the packages for tests.
OFFLINE = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")


def run(*argv: str | os.PathLike[str], folder: Path | None = None, **environment: str) -> str:
    """Run a command, in a folder if need be; return what it printed, and fail with that if it fails."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    done = subprocess.run(
        argv,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**ours, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository, so that building leaves nothing in it."""
    copy = tmp_path_factory.mktemp("source") / "pytest-dind"
    names = run("git", "-C", ROOT, "ls-files").splitlines() if (ROOT / ".git").exists() else []
    if not names:
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "dist", "build"))
    for name in names:
        if (ROOT / name).is_file():  # and not removed since the last commit
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", folder, source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def new_environment(folder: Path, what: Path) -> Path:
    """Install something into a new virtual environment; return its Python. What it depends on comes from ours."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)  # to install one there takes longer than all the rest
    python = folder / "bin" / "python"
    ours = os.pathsep.join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))
    # With the build backend from ours, and without a look at the package that is there too.
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", *OFFLINE, "--ignore-installed", what, PYTHONPATH=ours)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')")
    # Ours may have this package too, as an editable one: by a file of its own, which a path in another is not read for.
    (Path(site) / "dependencies.pth").write_text(ours.replace(os.pathsep, "\n") + "\n")
    return python


def is_at_work(python: Path, folder: Path) -> None:
    """Check that pytest finds the plugin in an environment, and that it is the installed one."""
    shown = run(python, "-I", "-c", "import pytest_dind; print(pytest_dind.__file__, pytest_dind.__version__)")
    assert shown.split() == [str(folder / "lib" / _python() / "site-packages/pytest_dind/__init__.py"), VERSION]
    assert "--dind-image=IMAGE" in run(python, "-I", "-m", "pytest", "--help", "-p", "no:cacheprovider")
    test = folder / "test_it.py"
    test.write_text("def test_it(dind_daemon): pass\n")
    shown = run(python, "-I", "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--rootdir", folder, test)
    assert "run pytest with --dind" in shown
    assert "1 skipped" in shown


VERSION = pytest_dind.__version__


def _python() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def test_pip_install_of_the_source_tree_works(source: Path, tmp_path: Path) -> None:
    is_at_work(new_environment(tmp_path / "venv", source), tmp_path / "venv")


def test_pip_install_of_the_wheel_works(wheel: Path, tmp_path: Path) -> None:
    is_at_work(new_environment(tmp_path / "venv", wheel), tmp_path / "venv")


def test_the_wheel_contains_the_package_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    here = {f"pytest_dind/{path.name}" for path in (ROOT / "pytest_dind").iterdir() if path.is_file()}
    assert {"pytest_dind/boot.sh", "pytest_dind/py.typed", "pytest_dind/plugin.py"} <= names
    assert names <= here
    assert {name for name in here if name.endswith((".sh", ".typed"))} <= names


def test_the_source_distribution_contains_the_repository_and_so_all_that_tests_and_benchmarks_need(
    source: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path, folder=source)
    (built,) = tmp_path.iterdir()
    assert built.name == f"pytest_dind-{VERSION}.tar.gz"
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    here = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert here - names <= {".gitignore", ".gitattributes", ".editorconfig"}
    assert names - here == {"PKG-INFO"}
    for part in (".ci/run", "benchmarks/__main__.py", "tests/conftest.py", "Makefile", "pytest_dind/boot.sh"):
        assert part in names


def test_the_wheel_contains_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_is_for_every_machine(wheel: Path) -> None:
    assert wheel.name == f"pytest_dind-{VERSION}-py3-none-any.whl"


def test_the_wheel_registers_the_plugin_with_pytest(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert "[pytest11]\ndind = pytest_dind.plugin\n" in archive.read(name).decode()


def test_the_metadata_say_what_it_is(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("pytest-dind", VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Summary"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Framework :: Pytest" in metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_metadata_say_what_it_needs_and_no_more(metadata: Message) -> None:
    needed = [line.partition(";") for line in metadata.get_all("Requires-Dist", [])]
    always = {name.rstrip(" ").partition(">")[0] for name, _, condition in needed if not condition}
    assert always == {"pytest", "docker", "filelock", "platformdirs", "trustme"}
    extra = [(name.partition(">")[0], condition.strip()) for name, _, condition in needed if condition]
    assert extra == [("pytest-xdist", "extra == 'xdist'")]
    assert metadata.get_all("Provides-Extra") == ["xdist"]
