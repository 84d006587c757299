"""docker-squash: unittest classes around docker-py; its client is made in a class body, so while it is imported."""

from __future__ import annotations

from . import Suite

_NEEDS_REGISTRY = "pulls an image from a registry"
_SQUASHING = "tests/test_integ_squash.py::TestIntegSquash::"

SUITE = Suite(
    name="docker-squash",
    version="1.2.2",
    sha256="74dd70412ddcf570bcd322567929062342793d1ec70c63b5371cc9e2808ae2ef",
    images=("busybox:1.36.1",),
    requirements=("pytest", "pytest-xdist", "pytest-timeout", "mock", "parameterized"),
    # test_qa runs a script that the source distribution does not have.
    arguments=("tests", "--ignore=tests/test_qa.py", "--timeout=120"),
    least_passed=93,
    left_out={
        _SQUASHING + "test_should_not_fail_with_hard_links_to_files_gh_99": _NEEDS_REGISTRY,
        _SQUASHING + "test_should_squash_every_layer_from_an_image_from_docker_hub": _NEEDS_REGISTRY,
        _SQUASHING + "test_without_io_failure": _NEEDS_REGISTRY,
    },
)
