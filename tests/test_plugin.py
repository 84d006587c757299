"""What users see of the plugin: options, skips, fixtures."""

from __future__ import annotations

import pytest

from .conftest import InnerRun

SUITE = """
    def test_daemon(dind_client):
        assert dind_client.ping()

    def test_no_daemon():
        pass
"""


def test_without_dind_tests_that_ask_for_a_daemon_are_skipped_and_the_reason_names_the_option(inner: InnerRun) -> None:
    inner.pytester.makepyfile(SUITE)
    result = inner.run("-rs")
    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(["*needs a Docker daemon of its own*run pytest with --dind*"])


@pytest.mark.heart
def test_with_dind_a_test_gets_a_daemon(inner: InnerRun) -> None:
    inner.pytester.makepyfile(SUITE)
    result = inner.run("--dind", "-p", "no:xdist")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["dind: host engine Docker *", "dind: 1 daemon started (median *); all removed*"])
    assert inner.left() == []
