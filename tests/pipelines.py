"""What the pipelines in examples/ say, read from their own files, and their steps run as the CI systems run them."""

from __future__ import annotations

import re
import secrets
import shlex
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .conftest import PATIENCE

EXAMPLES = Path(__file__).parent.parent / "examples"


@dataclass(frozen=True)
class Stage:
    """Shell steps, one after the other; and what is in their environment besides."""

    name: str
    steps: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


#: Stages of one group run at the same time, groups one after the other.
Groups = Sequence[Sequence[Stage]]


# -- a Jenkinsfile

_TOKEN = re.compile(
    r"[ \t]+|//[^\n]*|(?P<text>'''(?:\\.|.)*?'''|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\")"
    r"|(?P<word>[\w.]+)|(?P<sign>[{}()=:,\n])",
    re.DOTALL,
)


class Token(NamedTuple):
    """A word, a sign, or a text without its quotes."""

    kind: str
    text: str


@dataclass
class Statement:
    """What declarative pipelines are made of: `name 'text', key: 'text' { … }`."""

    name: str
    texts: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    body: list[Statement] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Statement]:
        """Yield all of a name, at any depth."""
        for one in self.body:
            if one.name == name:
                yield one
            yield from one.all(name)

    def one(self, *path: str) -> Statement:
        """Return the only one at a path."""
        found = self
        for name in path:
            (found,) = (one for one in found.body if one.name == name)
        return found


def _tokens(source: str) -> Iterator[Token]:
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        assert match, f"what is this? {source[position : position + 40]!r}"
        position = match.end()
        if match["text"]:
            quotes = 3 if match["text"].startswith("'''") else 1
            yield Token("text", _unescaped(match["text"][quotes:-quotes]))
        elif match["word"] or match["sign"]:
            yield Token("word" if match["word"] else "sign", match.group())


def _unescaped(text: str) -> str:
    r"""What Groovy makes of a text: \\ is one of them, and one at a line's end joins two lines."""
    return re.sub(
        r"\\(.)", lambda found: {"n": "\n", "t": "\t", "\n": ""}.get(found[1], found[1]), text, flags=re.DOTALL
    )


def _statements(tokens: Iterator[Token]) -> list[Statement]:
    """Read up to the closing brace."""
    found: list[Statement] = []
    current: Statement | None = None
    depth, last, key = 0, "", ""
    for kind, text in tokens:
        if (kind, text) == ("sign", "}"):
            return found
        if (kind, text) == ("sign", "{"):
            assert current, "a block without a name"
            current.body, current = _statements(tokens), None
        elif kind == "sign":
            depth += {"(": 1, ")": -1}.get(text, 0)
            key = last if text == ":" else key
            current = None if text == "\n" and not depth and last != "," else current
        elif current is None:
            assert kind == "word", f"a statement begins with {text!r}"
            current = Statement(text)
            found.append(current)
        elif key:
            current.named[key], key = text, ""
        elif kind == "text":
            current.texts.append(text)
        last = text if text != "\n" else last
    return found


@dataclass(frozen=True)
class Jenkinsfile:
    """What a declarative pipeline says."""

    root: Statement

    @classmethod
    def read(cls, path: Path) -> Jenkinsfile:
        """Read one; fails on what this does not understand."""
        (root,) = _statements(_tokens(path.read_text(encoding="utf-8")))
        assert root.name == "pipeline"
        return cls(root)

    @property
    def docker_args(self) -> str:
        """What `docker run` is to have for the agent."""
        return self.root.one("agent", "dockerfile", "args").texts[0]

    @property
    def groups(self) -> Groups:
        """Its stages."""
        return [
            [_stage(part) for part in (stage.one("parallel").body if [*stage.all("parallel")] else [stage])]
            for stage in self.root.one("stages").body
        ]

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """What it has in the environment of all steps, given what Jenkins has there."""
        entries = self.root.one("environment").body
        return {one.name: re.sub(r"\$\{env\.(\w+)\}", lambda found: env[found[1]], one.texts[0]) for one in entries}


def _stage(stage: Statement) -> Stage:
    steps = stage.one("steps").body
    assert {step.name for step in steps} == {"sh"}, f"{stage.texts}: steps that are none of the shell"
    return Stage(stage.texts[0], [step.texts[0] for step in steps])


# -- YAML


def _yaml(path: Path) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(path)


def gitlab_jobs(path: Path) -> list[Stage]:
    """The jobs of a .gitlab-ci.yml that has one, for each of its matrix."""
    (job,) = _yaml(path).values()
    return [
        Stage(value, [*job["before_script"], *job["script"]], {**job["variables"], name: value})
        for axes in job["parallel"]["matrix"]
        for name, values in axes.items()
        for value in values
    ]


def github_jobs(path: Path) -> list[Stage]:
    """The jobs of a workflow that has one, for each of its matrix."""
    (job,) = _yaml(path)["jobs"].values()
    ((axis, values),) = job["strategy"]["matrix"].items()
    steps = [step for step in job["steps"] if "run" in step]
    env = {name: value for step in steps for name, value in step.get("env", {}).items()}
    return [
        Stage(
            value,
            [step["run"] for step in steps],
            {name: text.replace(f"${{{{ matrix.{axis} }}}}", value) for name, text in env.items()},
        )
        for value in values
    ]


# -- a build of them


class Build:
    """The steps of a pipeline in a container, on a thread of their own; as Jenkins runs and aborts them.

    https://github.com/jenkinsci/docker-workflow-plugin/blob/master/src/main/java/org/jenkinsci/plugins/docker/workflow/WithContainerStep.java
    """

    def __init__(self, container: str, workspace: str, env: Mapping[str, str], groups: Groups) -> None:
        self.output = ""
        #: The steps that failed: their stages, and what they printed.
        self.failed: dict[str, str] = {}
        self._cookie = f"durable-{secrets.token_hex(16)}"
        self._container, self._workspace = container, workspace
        self._env = {**env, "JENKINS_SERVER_COOKIE": self._cookie}
        self._thread = threading.Thread(target=self._run, args=[groups])
        self._thread.start()

    def wait(self) -> None:
        """Wait for its end."""
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive(), f"it still runs:\n{self.output}"

    @property
    def is_running(self) -> bool:
        """Whether it has steps that are not done."""
        return self._thread.is_alive()

    def abort(self) -> None:
        """End all that has its cookie in the environment, and then the container."""
        listed = self._docker("exec", self._container, "ps", "-A", "-o", "pid,command", "e")
        found = [line.split()[0] for line in listed.splitlines() if f"JENKINS_SERVER_COOKIE={self._cookie}" in line]
        assert found, listed
        self._docker("exec", self._container, "kill", *found)
        self._docker("stop", "--time=1", self._container)

    @staticmethod
    def _docker(*arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout

    def _run(self, groups: Groups) -> None:
        for group in groups:
            threads = [threading.Thread(target=self._run_stage, args=[stage]) for stage in group]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self.failed:
                break

    def _run_stage(self, stage: Stage) -> None:
        for step in stage.steps:
            env = [f"--env={name}={value}" for name, value in {**self._env, **stage.env}.items()]
            command = ["docker", "exec", f"--workdir={self._workspace}", *env, self._container, "sh", "-xec", step]
            ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            self.output += f"--- {stage.name}\n{ended.stdout}"
            if ended.returncode:
                self.failed[stage.name] = ended.stdout
                return


def docker_options(args: str) -> dict[str, Any]:
    """What `docker run` makes of the arguments that Jenkins hands it, in docker-py's words."""
    words = iter(shlex.split(args))
    options: dict[str, Any] = {"volumes": {}, "environment": {}, "group_add": []}
    for word in words:
        value = next(words)
        if word == "-v":
            source, target, *mode = value.split(":")
            options["volumes"][source] = {"bind": target, "mode": "".join(mode) or "rw"}
        elif word == "-e":
            name, _, text = value.partition("=")
            options["environment"][name] = text
        elif word == "--group-add":
            options["group_add"].append(value)
        else:
            assert word == "--network", f"{word} is not known here"
            options["network"] = value
    return options
