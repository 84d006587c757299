"""Which engine is the host engine, and what is said of one that is of no use: no real one is needed to tell."""

from __future__ import annotations

import gc
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import docker
import pytest

from pytest_dind import HostEngineError
from pytest_dind.host import HostEngine
from pytest_dind.sweep import sweep

from .servers import Door, Handler

pytestmark = pytest.mark.once


class Engine(Handler):
    """An engine that knows nothing but its version."""

    api_version = "1.41"

    def do_GET(self) -> None:  # noqa: N802 (http.server's name)
        if self.path.endswith("/version"):
            version = {"Version": "20.10.0", "ApiVersion": self.api_version, "MinAPIVersion": "1.12"}
            self.answer(200, json.dumps(version).encode())
        else:
            self.answer(500, b'{"message": "its database is locked"}')


@pytest.fixture
def socket(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where an engine may be; no variable of the user's says anything else."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(short_tmp / "config"))
    yield short_tmp / "engine.sock"
    with warnings.catch_warnings():
        # docker-py leaves it to the garbage collector to close the socket of a connection that failed.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def make_context(socket: Path, name: str, *, current: bool) -> None:
    """Make a docker context, as `docker context create` does, and `docker context use`."""
    config = socket.parent / "config"
    meta = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": f"unix://{socket}", "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    (config / "config.json").write_text(json.dumps({"currentContext": name} if current else {}))


@pytest.mark.parametrize("version", ["1.40", "1.24"])
def test_an_engine_that_is_too_old_is_an_error_that_says_how_old_and_how_new_it_must_be(
    socket: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    monkeypatch.setattr(Engine, "api_version", version)
    with Door.opened(socket, Engine), pytest.raises(HostEngineError) as caught:
        HostEngine.connect()
    assert str(caught.value) == (
        f"the Docker engine at unix://{socket} (from DOCKER_HOST) is too old: API {version}, "
        "and pytest-dind needs 1.41 (Docker 20.10) or newer."
    )


@pytest.mark.parametrize("version", ["1.41", "1.100"])
def test_an_engine_that_is_new_enough_is_taken(socket: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    monkeypatch.setattr(Engine, "api_version", version)
    with Door.opened(socket, Engine):
        engine = HostEngine.connect()
        assert (engine.address, engine.version["ApiVersion"]) == (f"unix://{socket}", version)
        engine.close()


def test_the_engine_of_the_current_docker_context_is_taken(socket: Path) -> None:
    make_context(socket, "mine", current=True)
    with Door.opened(socket, Engine):
        engine = HostEngine.connect()
        assert engine.address.endswith(f"//{socket}")
        assert engine.version["Version"] == "20.10.0"
        engine.close()


def test_an_engine_that_does_not_answer_is_said_to_be_from_the_docker_context_that_names_it(socket: Path) -> None:
    make_context(socket, "mine", current=True)
    with pytest.raises(
        HostEngineError, match=rf"^no Docker engine answers at \S*//{socket} \(from the docker context 'mine'\): "
    ):
        HostEngine.connect()


def test_so_it_is_with_a_context_that_the_environment_names(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(socket, "mine", current=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    with pytest.raises(HostEngineError, match=r"\(from the docker context 'mine'\): "):
        HostEngine.connect()


def test_docker_host_counts_more_than_a_context(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(socket, "mine", current=True)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(
        HostEngineError, match=r"^no Docker engine answers at unix:///nowhere.sock \(from DOCKER_HOST\)"
    ):
        HostEngine.connect()


def test_docker_host_needs_no_scheme_as_with_the_docker_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("DOCKER_HOST", f"localhost:{port}")
    with pytest.raises(HostEngineError, match=rf"at tcp://localhost:{port} \(from DOCKER_HOST\): .*refused"):
        HostEngine.connect()


def test_an_engine_that_answers_with_an_error_is_told_from_one_that_does_not_answer(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    with Door.opened(socket, Engine):
        engine = HostEngine.connect()
        with pytest.raises(HostEngineError) as caught:
            sweep(engine)
        assert (
            str(caught.value) == f"the Docker engine at unix://{socket} answers with an error: its database is locked"
        )
    engine.close()
    socket.unlink()
    with pytest.raises(HostEngineError) as caught:
        sweep(engine)
    assert str(caught.value) == (
        f"the Docker engine at unix://{socket} has ceased to answer: [Errno 2] No such file or directory"
    )


def test_a_disk_of_this_machine_that_is_full_is_not_the_engines_failure(socket: Path) -> None:
    engine = HostEngine(docker.DockerClient(f"unix://{socket}", version="1.41"), f"unix://{socket}")
    with pytest.raises(OSError) as caught, open("/dev/full", "wb", buffering=0) as full:  # noqa: PT011, PTH123
        full.write(b"more")
    failure = engine.failure(caught.value)
    assert not isinstance(failure, HostEngineError)
    assert str(failure) == "a file of this machine cannot be read or written: [Errno 28] No space left on device"
