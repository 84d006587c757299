"""What docker sees of a directory that is built, and what tells it from another."""

from __future__ import annotations

import io
import os
import resource
import socket
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_dind import Build, ImageBuildError
from pytest_dind.buildcontext import Context

pytestmark = pytest.mark.once


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A directory that is built."""
    path = tmp_path / "app"
    (path / "src").mkdir(parents=True)
    (path / "Dockerfile").write_text("FROM scratch\nCOPY . .\n")
    (path / "src" / "main.py").write_text("print()\n")
    (path / "run").symlink_to("src/main.py")
    return path


def context(app: Path) -> Context:
    return Context(Build(app), "linux/amd64")


def archive(of: Context, below: str = "") -> tarfile.TarFile:
    file = io.BytesIO()
    assert of.write(file, below) == of.digest()
    file.seek(0)
    return tarfile.open(fileobj=file)


def rewrite(app: Path) -> None:
    (app / "src" / "main.py").write_text("pass   \n")


def chmod(app: Path) -> None:
    (app / "src" / "main.py").chmod(0o755)


def relink(app: Path) -> None:
    (app / "run").unlink()
    (app / "run").symlink_to("src")


def rename(app: Path) -> None:
    (app / "src" / "main.py").rename(app / "src" / "app.py")


def replace_by_directory(app: Path) -> None:
    (app / "run").unlink()
    (app / "run").mkdir()


@pytest.mark.parametrize("change", [rewrite, chmod, relink, rename, replace_by_directory])
def test_a_change_that_docker_sees_makes_another_context(app: Path, change: Callable[[Path], None]) -> None:
    before = context(app).digest()
    change(app)
    assert context(app).digest() != before


def test_time_and_what_is_left_out_and_the_place_make_no_difference(app: Path, tmp_path: Path) -> None:
    (app / ".dockerignore").write_text("# comment\n*.log\n\n**/__pycache__\nDockerfile\n")
    before = context(app).digest()
    os.utime(app / "src" / "main.py", (1, 1))
    (app / "build.log").write_text("much\n")
    (app / "src" / "__pycache__").mkdir()
    app.rename(tmp_path / "elsewhere")
    assert context(tmp_path / "elsewhere").digest() == before


def test_the_dockerfiles_own_list_of_what_is_left_out_goes_first(app: Path) -> None:
    (app / ".dockerignore").write_text("src\n")
    (app / "Dockerfile.dockerignore").write_text("run\n")
    assert "src/main.py" in context(app).files()
    assert "run" not in context(app).files()


def test_the_archive_is_roots_and_has_all_as_it_is(app: Path) -> None:
    (app / "src" / "main.py").chmod(0o750)
    os.link(app / "src" / "main.py", app / "twice")
    os.mkfifo(app / "pipe")
    with archive(context(app), below="work/") as tar:
        found = {member.name: member for member in tar}
        assert {member.uid for member in found.values()} == {0}
        assert found["work/src/main.py"].mode == 0o750
        assert found["work/run"].linkname == "src/main.py"
        assert found["work/pipe"].isfifo()
        twice = tar.extractfile("work/twice")
        assert twice is not None
        assert twice.read() == b"print()\n"


def test_a_link_out_of_the_context_stays_a_link(app: Path) -> None:
    (app / "out").symlink_to("/etc/hostname")
    with archive(context(app)) as tar:
        assert tar.getmember("out").linkname == "/etc/hostname"


def test_a_socket_is_left_out_as_docker_does(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = context(app).digest()
    monkeypatch.chdir(app)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert context(app).digest() == before


def test_a_name_that_is_not_utf_8_is_one_clear_error(app: Path) -> None:
    (Path(os.fsdecode(os.fsencode(app) + b"/caf\xe9"))).touch()
    with pytest.raises(ImageBuildError) as caught:
        context(app).digest()
    assert str(caught.value) == (
        f"building {app} failed at reading its context: the name b'caf\\xe9' is not UTF-8, and BuildKit refuses it. "
        "Leave it out with .dockerignore, or mend it"
    )
    (app / ".dockerignore").write_text("caf*\n")
    context(app).digest()


def test_a_file_that_cannot_be_read_is_one_clear_error(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, *arguments: int) -> int:
        if str(path).endswith("main.py"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    with pytest.raises(ImageBuildError, match=r"cannot read src/main\.py: Permission denied\. Leave it out with"):
        context(app).digest()


@pytest.mark.parametrize("size", [100_000, 100], ids=["in the middle", "at the end"])
def test_a_temporary_directory_without_room_is_not_taken_for_a_file_that_cannot_be_read(app: Path, size: int) -> None:
    (app / "data").write_bytes(bytes(size))

    def pack() -> None:
        with tempfile.TemporaryFile() as file, files_of_at_most(4096):
            context(app).write(file)

    with pytest.raises(ImageBuildError) as caught:
        pack()
    assert str(caught.value) == (
        f"building {app} failed at packing its context: cannot write it to a temporary file in "
        f"{tempfile.gettempdir()}: File too large. Make room there, set TMPDIR to where there is some, or leave out "
        "with .dockerignore what the build does not need"
    )


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the kernel refuse to write more to any file, as it does where there is no room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_vanishes_meanwhile_counts_as_not_there(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = context(app).files()
    (app / "src" / "main.py").unlink()
    expected = context(app).digest()
    monkeypatch.setattr(Context, "files", lambda _: there)
    assert context(app).digest() == expected
    with archive(context(app)) as tar:
        assert "src/main.py" not in tar.getnames()


def test_a_dockerfile_may_lie_outside_or_be_a_link_there(app: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile.out").write_text("FROM out\n")
    (app / "Dockerfile.link").symlink_to("../Dockerfile.out")
    for name in ("../Dockerfile.out", "Dockerfile.link"):
        found = Context(Build(app, dockerfile=name), "linux/amd64")
        assert found.dockerfile == "FROM out\n"
        assert found.dockerfile_inside is None
    assert context(app).dockerfile_inside == "Dockerfile"


def test_a_dockerfile_that_is_left_out_is_read_all_the_same(app: Path) -> None:
    (app / ".dockerignore").write_text("*\n")
    assert context(app).files() == [".dockerignore", "Dockerfile"]


def test_five_thousand_files_are_hashed_in_less_than_a_second(app: Path) -> None:
    (app / ".dockerignore").write_text("**/*.pyc\n.git\nbuild\n")
    for number in range(5000):
        directory = app / f"package{number % 50}"
        directory.mkdir(exist_ok=True)
        (directory / f"module{number}.py").write_text("x" * 1000)
    # Of this process alone: others may use the machine meanwhile.
    begin = time.process_time()
    context(app).digest()
    assert time.process_time() - begin < 1
