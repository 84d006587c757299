"""The pipelines in examples/: what they say is what is run here, in containers as the CI systems start them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import docker
import pytest

from pytest_dind.labels import HOST, ROLE

from .agents import AGENT, Agent, Sidecar, package, started_agent
from .conftest import BUSYBOX, IMAGE, wait_until
from .pipelines import EXAMPLES, Build, Jenkinsfile, Stage, docker_options, github_jobs, gitlab_jobs

pytestmark = pytest.mark.once

JENKINS = EXAMPLES / "jenkins"
#: Whom Jenkins runs as; the image knows no such user.
USER = 1000
#: What stands in for docker:dind and busybox, where there is no registry.
IMAGES = {"PYTEST_DIND_IMAGE": IMAGE, "PYTEST_DIND_TEST_IMAGE": BUSYBOX}

#: With it, the tests of a suite end no more.
ENDLESS = """
import os, pathlib, time

def pytest_runtest_call(item):
    pathlib.Path(f"began-{os.getpid()}").touch()
    time.sleep(600)
"""


# -- reading them


def test_all_shell_steps_of_the_jenkinsfile_are_found() -> None:
    source = (JENKINS / "Jenkinsfile").read_text(encoding="utf-8")
    groups = Jenkinsfile.read(JENKINS / "Jenkinsfile").groups
    assert [len(group) for group in groups] == [1, 2], "the tests run in two stages at the same time"
    steps = [step for group in groups for stage in group for step in stage.steps]
    assert len(steps) == len(re.findall(r"\bsh\b", source))
    assert [step for step in steps if "pytest" in step and not ("--dind" in step and "--junitxml" in step)] == []


def test_a_step_is_read_as_groovy_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "Jenkinsfile"
    path.write_text(
        "pipeline {\n stages {\n stage('It\\'s') { // sh 'no'\n steps {\n"
        " sh 'a \\\\ {'\n sh '''b \\\\\n'c' '''\n }\n }\n }\n}"
    )
    assert Jenkinsfile.read(path).groups == [[Stage("It's", ["a \\ {", "b \\\n'c' "])]]


def test_every_pipeline_sets_a_limit_and_keeps_results_and_logs() -> None:
    root = Jenkinsfile.read(JENKINS / "Jenkinsfile").root
    assert root.one("options", "timeout").named == {"time": "30", "unit": "MINUTES"}
    assert {one.name for one in root.one("post", "always").body} == {"junit", "archiveArtifacts"}
    assert "timeout: 30 minutes" in (EXAMPLES / "gitlab" / ".gitlab-ci.yml").read_text(encoding="utf-8")
    assert "timeout-minutes: 30" in (EXAMPLES / "github" / "workflow.yml").read_text(encoding="utf-8")


# -- running them


@pytest.fixture(scope="module")
def agent_image(host: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Dockerfile's image, on the agent image of the suite with pip and this checkout in place of a registry."""
    if not AGENT:
        pytest.skip("there is no image of an agent here; .ci/setup --matrix makes it")
    context = tmp_path_factory.mktemp("base")
    (context / "package.tar").write_bytes(package())
    pip = find_spec("pip")
    assert pip
    assert pip.origin
    shutil.copytree(Path(pip.origin).parent, context / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    (context / "Dockerfile").write_text(
        f"FROM {AGENT}\nADD package.tar /\nCOPY pip /opt/pytest-dind/pip\n"
        "RUN chmod -R a+rX /opt/pytest-dind && ln -s /usr/bin/docker /usr/local/bin/docker\n"
        "ENV PYTHONPATH=/opt/pytest-dind PIP_NO_INDEX=1 PIP_BREAK_SYSTEM_PACKAGES=1\n"
    )
    token = secrets.token_hex(6)
    base, built = f"pytest-dind-suite/base:{token}", f"pytest-dind-suite/agent:{token}"
    with ExitStack() as stack:
        host.images.build(path=str(context), tag=base, rm=True, forcerm=True)
        stack.callback(host.images.remove, base)
        arguments = {"BASE": base, "DOCKER": base}
        host.images.build(path=str(JENKINS), tag=built, buildargs=arguments, rm=True, forcerm=True)
        stack.callback(host.images.remove, built, force=True)
        yield built


@dataclass(frozen=True)
class Setup:
    """A way to a Docker engine for builds, as `docker run` is told of it; and this process's own way to it."""

    engine: docker.DockerClient
    args: str

    @contextmanager
    def agent(self, host: docker.DockerClient, image: str, node: Path) -> Iterator[Agent]:
        """A container as Jenkins starts it for a build; `node` is what the node's disk has of it."""
        workspace = node / "app"
        options = docker_options(self.args)
        for path in (workspace, node / "app@tmp"):
            shutil.copytree(JENKINS, path) if path == workspace else path.mkdir()
            options["volumes"][str(path)] = {"bind": str(path)}
        for path in (node, *node.rglob("*")):
            os.chown(path, USER, USER)
        with started_agent(host, image, str(workspace), user=f"{USER}:{USER}", **options) as agent:
            yield agent


@pytest.fixture(params=["host socket", "docker:dind beside"])
def setup(
    request: pytest.FixtureRequest, host: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Setup]:
    if request.param == "host socket":
        socket: Path = request.getfixturevalue("host_socket")
        args = Jenkinsfile.read(JENKINS / "Jenkinsfile").docker_args
        yield Setup(host, changed(args, {"/var/run/docker.sock:": f"{socket}:", "999": str(socket.stat().st_gid)}))
        return
    (args,) = re.findall(r"args '(--network .*)'", (JENKINS / "README.md").read_text(encoding="utf-8"))
    neighbour: Sidecar = request.getfixturevalue("beside")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests would trust these, and not what it is told
        monkeypatch.delenv(name, raising=False)
    engine = docker.from_env(environment=neighbour.environment(tmp_path))
    yield Setup(
        engine,
        changed(args, {"--network ci": f"--network {neighbour.network}", "dind-certs:": f"{neighbour.certificates}:"}),
    )
    engine.close()


def changed(text: str, names: dict[str, str]) -> str:
    """A text with some names in it changed, each of which is there."""
    for old, new in names.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text


def build(agent: Agent, number: int) -> Build:
    """Begin a build of the Jenkinsfile."""
    pipeline = Jenkinsfile.read(JENKINS / "Jenkinsfile")
    env = {
        **IMAGES,
        "BUILD_NUMBER": str(number),
        "BUILD_TAG": f"jenkins-app-{number}",
        "CI": "true",
        "JENKINS_URL": "http://jenkins.example/",
        "JOB_NAME": "app",
        "WORKSPACE": agent.workspace,
        "WORKSPACE_TMP": f"{agent.workspace}@tmp",
    }
    return Build(str(agent.container.id), agent.workspace, env | pipeline.environment(env), pipeline.groups)


def left(engine: docker.DockerClient, home: Path) -> list[str]:
    """What runs with that home have on an engine, but for what is to stay."""
    ours = {"label": f"{HOST}={(home / '.local/state/pytest-dind/leases/id').read_text()}"}
    names = [one["Names"][0] for one in engine.api.containers(all=True, filters=ours)]
    names += [one["Name"] for one in engine.api.networks(filters=ours)]
    return names + [
        one["Name"] for one in engine.api.volumes(filters=ours)["Volumes"] or [] if ROLE not in one["Labels"]
    ]


def outcomes(report: Path) -> tuple[int, int]:
    """How many tests a report of junit-xml has, and how many of them did not pass."""
    suite = ET.parse(report).getroot().find("testsuite")
    assert suite is not None
    return int(suite.get("tests", 0)), sum(int(suite.get(kind, 0)) for kind in ("errors", "failures", "skipped"))


def has_kept(workspace: Path, results: str, artifacts: str) -> None:
    """All tests have passed, and where a pipeline looks there are the results and the daemons' logs."""
    found = [outcomes(path) for path in workspace.glob(results)]
    assert found
    assert [(tests, bad) for tests, bad in found if bad or not tests] == []
    logs = [path.read_text() for path in workspace.glob(artifacts) if path.suffix == ".log"]
    assert len([log for log in logs if "API listen on" in log]) >= len(found)


def test_a_build_passes_while_another_is_aborted_that_leaves_nothing(
    setup: Setup, host: docker.DockerClient, agent_image: str, tmp_path: Path
) -> None:
    with (
        setup.agent(host, agent_image, made(tmp_path / "node-1")) as first,
        setup.agent(host, agent_image, made(tmp_path / "node-2")) as second,
    ):
        doomed = Path(second.workspace)
        (doomed / "conftest.py").write_text(ENDLESS)
        passing, aborted = build(first, 1), build(second, 2)
        # Two workers in one stage, and one process in the other.
        wait_until(lambda: len([*doomed.glob("began-*")]) == 3 or not aborted.is_running, lambda: aborted.output)
        assert aborted.is_running, aborted.output
        before = left(setup.engine, node_home(second))
        assert len([name for name in before if name.startswith("/")]) == 3, before
        aborted.abort()
        aborted.wait()
        assert set(aborted.failed) == {"A daemon per worker", "A daemon per test"}
        wait_until(
            lambda: not left(setup.engine, node_home(second)), lambda: str(left(setup.engine, node_home(second))), 10
        )
        logs = [path.read_text() for path in doomed.glob("reports/**/*.log")]
        assert len([log for log in logs if "API listen on" in log]) >= 3, "the daemons' logs up to the abort"
        passing.wait()
        assert passing.failed == {}
    always = Jenkinsfile.read(JENKINS / "Jenkinsfile").root.one("post", "always")
    results, artifacts = always.one("junit").named["testResults"], always.one("archiveArtifacts").named["artifacts"]
    has_kept(Path(first.workspace), results, artifacts)
    assert [path.name for path in sorted(Path(first.workspace).glob(results))] == ["fresh.xml", "workers.xml"]
    assert left(setup.engine, node_home(first)) == []


def node_home(agent: Agent) -> Path:
    return Path(f"{agent.workspace}@tmp")


def made(path: Path) -> Path:
    path.mkdir()
    return path


def test_gitlabs_jobs_pass_at_the_same_time_beside_one_docker(
    beside: Sidecar, host: docker.DockerClient, agent_image: str
) -> None:
    jobs = gitlab_jobs(EXAMPLES / "gitlab" / ".gitlab-ci.yml")
    volumes = {beside.certificates: {"bind": "/certs", "mode": "ro"}}
    with ExitStack() as stack:
        builds = []
        for job in jobs:
            agent = stack.enter_context(
                started_agent(host, agent_image, "/builds/app", network=beside.network, volumes=volumes)
            )
            subprocess.run(["docker", "cp", f"{JENKINS}/.", f"{agent.container.id}:/builds/app"], check=True)
            builds.append(Build(str(agent.container.id), "/builds/app", {**IMAGES, "GITLAB_CI": "true"}, [[job]]))
        for one in builds:
            one.wait()
            assert one.failed == {}
            assert re.search(r"[12] passed", one.output), one.output
            assert "reports/junit.xml" in one.output
    assert len(builds) == 2


def test_githubs_jobs_pass_on_a_machine_with_a_docker(host: docker.DockerClient, tmp_path: Path) -> None:
    jobs = github_jobs(EXAMPLES / "github" / "workflow.yml")
    assert len(jobs) == 2
    for job in jobs:
        workspace = tmp_path / job.name
        shutil.copytree(JENKINS, workspace)
        env = {**os.environ, **IMAGES, **job.env, "HOME": str(tmp_path), "GITHUB_ACTIONS": "true", "PIP_NO_INDEX": "1"}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        for step in job.steps:
            ended = subprocess.run(
                ["bash", "-e", "-c", step], cwd=workspace, env=env, capture_output=True, text=True, check=False
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
        has_kept(workspace, "reports/junit.xml", "reports/**/*")
    assert left(host, tmp_path) == []
