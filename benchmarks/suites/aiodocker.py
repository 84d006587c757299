"""aiodocker: an asyncio client without docker-py; its tests call the docker CLI and testcontainers, too."""

from __future__ import annotations

from . import Suite

_FILES = (
    "containers",
    "docker_close",
    "events",
    "execs",
    "images",
    "integration",
    "networks",
    "stream",
    "system",
    "volumes",
)
_NEEDS_REGISTRY = "pulls an image from a registry"
_NEEDS_REGISTRY_IMAGE = "its fixture starts registry:2 with testcontainers, which would have to be pulled"
_TTY = 'the suite expects it to fail, "for unknown reasons"; it passes now and then, on a plain daemon too'

SUITE = Suite(
    name="aiodocker",
    version="0.27.0",
    sha256="74586f4929aee4563ee7db50996a1a39ac35e06c80701daad31f94aadb6551c7",
    images=("python:latest", "python:3.13-alpine", "python:3.14-alpine"),
    requirements=(
        "pytest==9.0.3",
        "pytest-asyncio==1.3.0",
        "testcontainers==4.14.2",
        "async-timeout",
        "packaging",
        "asyncssh",
        "paramiko",
        "pytest-timeout",
        "pytest-xdist",
    ),
    arguments=(*(f"tests/test_{name}.py" for name in _FILES), "--override-ini=addopts=", "--timeout=60"),
    least_passed=98,
    left_out={
        "tests/test_containers.py::test_run_container_with_missing_image": "deletes an image and pulls it again",
        "tests/test_containers.py::test_run_failing_start_container": "deletes an image and pulls it again",
    },
    # Ryuk is an image, too.
    environment={"TESTCONTAINERS_RYUK_DISABLED": "true"},
    programs=("docker",),
    failing={
        "tests/test_containers.py::test_run_existing_container": _NEEDS_REGISTRY,
        "tests/test_images.py::test_pull_image_stream": _NEEDS_REGISTRY,
        "tests/test_images.py::test_build_from_remote_file": "the daemon fetches a Dockerfile from the internet",
        "tests/test_images.py::test_build_from_remote_tar": (
            "the daemon fetches from 127.0.0.1 of the test's process, which is another one in its own network"
        ),
        "tests/test_images.py::test_prune_images": (
            "expects a list of deleted images, and the engine answers null where there is nothing to prune"
        ),
        "tests/test_images.py::test_push_image": _NEEDS_REGISTRY_IMAGE,
        "tests/test_images.py::test_push_image_stream": _NEEDS_REGISTRY_IMAGE,
        "tests/test_images.py::test_delete_image": _NEEDS_REGISTRY_IMAGE,
        "tests/test_images.py::test_pups_image_auth": _NEEDS_REGISTRY_IMAGE,
    },
    unstable={
        "tests/test_execs.py::test_exec_attached_tty": _TTY,
        "tests/test_integration.py::test_attach_tty": _TTY,
    },
)
