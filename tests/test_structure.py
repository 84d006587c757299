"""The package's shape: who may import whom, who knows pytest, and what every module owes its reader."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import docker
import pytest

import pytest_dind
from pytest_dind import errors
from pytest_dind.container import BOOT, FIT, NETWORK, boot_archive

pytestmark = pytest.mark.once

PACKAGE = Path(pytest_dind.__file__).parent
MODULES = sorted(PACKAGE.glob("*.py"))
NAMES = {path.stem for path in MODULES}

#: The modules that may import pytest; all others work in a plain script.
KNOW_PYTEST = {
    "abort",
    "basetemp",
    "early",
    "evidence",
    "foreseen",
    "foresight",
    "heed",
    "hindsight",
    "hooks",
    "live",
    "news",
    "options",
    "plugin",
    "session",
    "upkeep",
    "workers",
}

MOST_LINES = 260

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


def imported(tree: ast.AST, *, typing: bool = False) -> Iterator[str]:
    """Yield what is imported anywhere below, also inside functions: "os.path", or ".daemon" for a room of ours.

    :param typing: Whether what only type checkers see counts too.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            if typing:
                yield from imported(ast.Module(node.body, []), typing=True)
            yield from imported(ast.Module(node.orelse, []), typing=typing)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"line {node.lineno}: the package has no folders"
            if node.module:
                yield f".{node.module}"
            else:
                yield from (f".{alias.name}" if alias.name in NAMES else ".__init__" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            # `from _pytest import x` and `from pytest import x` name their module; `from x import _pytest` cannot be.
        else:
            yield from imported(node, typing=typing)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), path.name)


def knows_pytest(path: Path) -> bool:
    return any(name.partition(".")[0] == "pytest" for name in imported(tree_of(path), typing=True))


def test_imports_point_down_only_also_those_inside_functions() -> None:
    graph = {path.stem: {name[1:] for name in imported(tree_of(path)) if name.startswith(".")} for path in MODULES}
    assert set().union(*graph.values()) <= NAMES
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, with the ring in its text
    assert order.index("errors") < order.index("daemon") < order.index("session") < order.index("plugin")


@every_module
def test_a_module_imports_nothing_private_of_pytest(path: Path) -> None:
    assert [name for name in imported(tree_of(path), typing=True) if name.split(".")[0] == "_pytest"] == []


def test_only_the_modules_on_top_know_pytest() -> None:
    assert {path.stem for path in MODULES if knows_pytest(path)} == KNOW_PYTEST


def test_the_core_is_imported_without_pytest() -> None:
    rooms = sorted(NAMES - KNOW_PYTEST - {"__init__", "__main__"})
    code = f"import sys; from pytest_dind import {', '.join(rooms)}; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """if 1:
        import sys, pytest_dind.settings
        print(*sorted({'docker', 'filelock', 'platformdirs', 'pytest', 'requests'} & set(sys.modules)))
    """
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == ""


def test_all_names_what_can_be_imported_from_the_package_and_nothing_else() -> None:
    assert list(pytest_dind.__all__) == sorted(pytest_dind.__all__)
    for name in pytest_dind.__all__:
        assert getattr(pytest_dind, name) is not None
    typed = {
        alias.asname or alias.name
        for block in ast.walk(tree_of(PACKAGE / "__init__.py"))
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(pytest_dind.__all__) - {"__version__"}, "what mypy sees is what can be imported"
    with pytest.raises(AttributeError, match=r"module 'pytest_dind' has no attribute 'Docker'"):
        pytest_dind.Docker  # noqa: B018


def all_of_errors() -> list[type[Exception]]:
    return [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, Exception)]


def test_every_error_can_be_imported_from_the_package() -> None:
    assert {one.__name__ for one in all_of_errors()} <= set(pytest_dind.__all__)


def test_every_error_is_drawn_in_the_tree_of_their_modules_docstring() -> None:
    tree = errors.__doc__ or ""
    assert [one.__name__ for one in all_of_errors() if one.__name__ not in tree] == []


EXAMPLES: list[Exception] = [
    errors.DindError("it failed"),
    errors.DindWarning("pytest-dind-1 is left"),
    errors.SettingsError("--dind-memory", "1k", "is not a size of at least 6m"),
    errors.HostEngineError("no Docker engine answers at unix:///nowhere"),
    errors.EngineRefusedError("pytest-dind-1", "no", "It is rootless.", "Take another."),
    errors.EngineRefusedError("pytest-dind-1", "no"),
    errors.ImageNotFoundError("nope:1", "not on the host engine"),
    errors.DaemonStartError("pytest-dind-1", "it ended", "one\ntwo\n", "It is full.", "Empty it."),
    errors.DaemonStartError("pytest-dind-1", "it was interrupted"),
    errors.DaemonStateError("container 'x' is not in this daemon"),
    errors.ImageStoreError("big:1", "no space left on device", "Make room."),
    errors.ImageBuildError("app:test", "step 2 of 3: RUN make", "exit code 2", "one\ntwo"),
    errors.ImageBuildError("app:test", "reading its context", "cannot read secret"),
    errors.LockTimeoutError("building app:1", 60.0, "gw0 (process 12) has been building app:1 for 61 s"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{len(error.args)}")
def test_an_error_survives_the_way_between_processes(error: Exception) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_there_is_an_example_of_every_error() -> None:
    assert {type(error) for error in EXAMPLES} == set(all_of_errors())


@every_module
def test_whatever_is_public_has_a_docstring(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{path.name} says nothing of itself"
    assert list(_without_docstring(tree.body)) == []


def _without_docstring(body: list[ast.stmt], within: str = "") -> Iterator[str]:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield within + node.name
        if isinstance(node, ast.ClassDef):
            yield from _without_docstring(node.body, f"{within}{node.name}.")


@every_module
def test_a_module_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{path.name} has {lines} lines: cut it"


@pytest.mark.parametrize("script", sorted(PACKAGE.glob("*.sh")), ids=lambda path: path.name)
def test_what_runs_in_the_container_is_a_posix_shell_script(script: Path) -> None:
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize("script", [BOOT, NETWORK, FIT])
def test_what_runs_in_the_container_is_a_script_for_busybox_as_well(
    host: docker.DockerClient, busybox: str, script: str
) -> None:
    container = host.containers.create(busybox, ["ash", "-n", script])
    try:
        container.put_archive("/", boot_archive())
        container.start()
        assert container.wait()["StatusCode"] == 0, container.logs().decode()
    finally:
        container.remove(force=True)
