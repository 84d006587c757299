"""What is to be built: said and checked, and which images it needs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pytest_dind import Build, SettingsError
from pytest_dind.build import declared
from pytest_dind.dockerfile import needed

pytestmark = pytest.mark.once


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A directory that can be built."""
    for name in ("Dockerfile", "Dockerfile.ci", "key"):
        (tmp_path / name).write_text("FROM scratch\n")
    return tmp_path


# -- Build


def test_a_build_holds_absolute_paths_and_is_a_value(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(app.parent)
    build = Build(
        app.name, tag="app:test", dockerfile="Dockerfile.ci", buildargs={"A": "1"}, secrets={"key": app / "key"}
    )
    assert build.path == app
    assert build.dockerfile == app / "Dockerfile.ci"
    assert build == pickle.loads(pickle.dumps(build))
    assert len({build, pickle.loads(pickle.dumps(build))}) == 1
    assert build != Build(app, tag="app:test", dockerfile="Dockerfile.ci", buildargs={"A": "2"})
    assert str(build) == "app:test"
    assert str(Build(app)) == str(app)


def test_a_build_does_not_change_with_the_mapping_it_was_made_from(app: Path) -> None:
    arguments = {"A": "1"}
    build = Build(app, buildargs=arguments)
    arguments["A"] = "2"
    assert build.buildargs == {"A": "1"}


@pytest.mark.parametrize(
    ("said", "where", "rule"),
    [
        ({"path": "nowhere"}, "Build(path=…): '{}/nowhere'", "is not a directory"),
        ({"path": "key"}, "Build(path=…): '{}/key'", "is not a directory"),
        (
            {"dockerfile": "Dockerfile.no"},
            "Build(dockerfile=…): '{}/Dockerfile.no'",
            "is not a file; give the Dockerfile",
        ),
        ({"tag": "App"}, "Build(tag=…): 'App'", "is not a name for an image; give one such as app:test"),
        ({"tag": "app:"}, "Build(tag=…): 'app:'", "is not a name for an image"),
        ({"tag": "-t"}, "Build(tag=…): '-t'", "is not a name for an image"),
        ({"target": "a b"}, "Build(target=…): 'a b'", "is not the name of a stage"),
        ({"buildargs": {"1": "x"}}, "Build(buildargs=…): '1'", "is not the name of a build argument"),
        ({"buildargs": {"A": 1}}, "Build(buildargs=…): 1", "is not a text, as the build argument A must be"),
        ({"buildargs": ["A=1"]}, "Build(buildargs=…): ['A=1']", "is not a mapping of names to values"),
        ({"secrets": {"key": "no"}}, "Build(secrets=…): '{}/no'", "is not a file, as the secret key must be"),
        ({"secrets": {"a,b": "key"}}, "Build(secrets=…): 'a,b'", "is not the id of a secret"),
    ],
)
def test_what_cannot_be_built_is_said_with_the_value_and_the_rule(
    app: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, object], where: str, rule: str
) -> None:
    monkeypatch.chdir(app)
    with pytest.raises(SettingsError) as caught:
        Build(**{"path": ".", **said})  # type: ignore[arg-type]
    assert str(caught.value).startswith(where.format(app) + " " + rule)


@pytest.mark.parametrize("tag", ["app", "app:test", "registry.example:5000/team/app:1.0", "localhost/a__b"])
def test_a_tag_may_name_a_registry(app: Path, tag: str) -> None:
    assert Build(app, tag=tag).tag == tag


# -- ini


def test_a_build_is_declared_on_one_line(app: Path) -> None:
    line = f"app:test {app.name} dockerfile=Dockerfile.ci target=run buildargs.VERSION=3 buildargs.WORDS='a b=c'"
    assert declared(line, "ini dind_builds", base=app.parent) == Build(
        app, tag="app:test", dockerfile="Dockerfile.ci", target="run", buildargs={"VERSION": "3", "WORDS": "a b=c"}
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("app:test", "ini dind_builds: 'app:test' is not a build; give TAG PATH [dockerfile=NAME]"),
        ("app:test . more", "ini dind_builds: 'app:test . more' is not a build; give TAG PATH"),
        ("app:test . tag=b", "ini dind_builds: 'app:test . tag=b' says tag, which is not known; give TAG PATH"),
        ("app:test 'a", 'ini dind_builds: "app:test \'a" cannot be read (No closing quotation); give TAG PATH'),
        ("App . ", "ini dind_builds, Build(tag=…): 'App' is not a name for an image"),
    ],
)
def test_a_line_that_declares_no_build_is_an_error_that_gives_the_form(app: Path, line: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        declared(line, "ini dind_builds", base=app)
    assert str(caught.value).startswith(message)


# -- which images it needs

EVERYTHING = r"""# syntax=docker/dockerfile:1
# escape=\
ARG VERSION=3.11 \
    # a comment does not end it
    SUFFIX
ARG BASE=python:${VERSION}
FROM --platform=$BUILDPLATFORM ${BASE}${SUFFIX:+-$SUFFIX} AS Build
COPY --from=tools:1 /tool /usr/bin/
COPY <<EOF /a.py
FROM here import nothing
EOF
RUN --mount=type=bind,from=assets:2,target=/a <<-'END' cat
FROM neither:here
	END
FROM build AS test
COPY --from=build /x /x
COPY --from=0 /x /x
FROM scratch
copy --from=Test /x /x
from last:$TARGETARCH
"""


@pytest.mark.parametrize(
    ("text", "arguments", "target", "images"),
    [
        ("FROM a", {}, None, ["a"]),
        (EVERYTHING, {"TARGETARCH": "arm64"}, None, ["python:3.11", "tools:1", "assets:2", "last:arm64"]),
        (EVERYTHING, {"VERSION": "3.13", "SUFFIX": "slim"}, "test", ["python:3.13-slim", "tools:1", "assets:2"]),
        (EVERYTHING, {"BASE": "mine:1", "SUFFIX": "x"}, "BUILD", ["mine:1-x", "tools:1", "assets:2"]),
        ("ARG A\nFROM ${A:-b:1}\nFROM ${A}\nFROM ${B-c}\nFROM '$D'", {}, None, ["b:1", "c"]),
        ("# escape=`\nFROM a:1 `\n AS first\nFROM first", {}, None, ["a:1"]),
        ("FROM a:1\nRUN one \\\n\n# comment \\\n  two\nFROM\tb:2", {}, "1", ["a:1", "b:2"]),
        ("# just a comment\n# syntax=no/directive:1\nFROM A/b@sha256:12", {}, None, ["A/b@sha256:12"]),
    ],
)
def test_the_images_that_a_dockerfile_needs_are_found(
    text: str, arguments: dict[str, str], target: str | None, images: list[str]
) -> None:
    assert list(needed(text, arguments, target).images) == images


def test_the_frontend_is_found_where_the_first_lines_name_one() -> None:
    assert needed(EVERYTHING, {}).syntax == "docker/dockerfile:1"
    assert needed("# just a comment\n# syntax=no/directive:1\nFROM a", {}).syntax is None
