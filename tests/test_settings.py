"""Settings: what wins over what, and every value that cannot be used is one message that says where, what and why."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_dind import Settings, SettingsError
from pytest_dind.build import Build
from pytest_dind.options import is_wanted, resolve
from pytest_dind.table import OPTIONS, Option

from .conftest import InnerRun, usage_error

pytestmark = pytest.mark.once

IMAGE_VARIABLE = "PYTEST_DIND_IMAGE"
BY_NAME = {option.name: option for option in OPTIONS}


class Given(NamedTuple):
    """An option said in four places, and what of it `Settings` holds for each."""

    name: str
    marker: Any
    marked: Any
    line: str
    on_line: Any
    ini: str
    in_ini: Any
    default: Any


MARK = {"mtu": 1300}
SWITCHES = ("environ", "clean")
GIVEN = [
    Given("image", "mark:1", "mark:1", "line:1", "line:1", "ini:1", "ini:1", "docker:dind"),
    Given("preload", [], (), "line:1", ("line:1",), "ini:1", ("ini:1",), ()),
    Given("pull", None, None, "always", "always", "never", "never", "missing"),
    Given("registry_mirror", [], (), "http://line", ("http://line",), "https://ini:1/", ("https://ini:1/",), ()),
    Given("insecure_registry", ["m:1"], ("m:1",), "10.0.0.0/8", ("10.0.0.0/8",), "[::1]:5", ("[::1]:5",), ()),
    Given("daemon_arg", ["--mtu=1"], ("--mtu=1",), "--mtu=2", ("--mtu=2",), "--mtu=3", ("--mtu=3",), ()),
    Given("config", {}, {}, "line.json", {"mtu": 2}, "ini.json", {"mtu": 3}, None),
    Given("transport", "unix", "unix", "tls", "tls", "unix", "unix", "auto"),
    Given("mount", [], (), "line", (Path("line"),), "ini", (Path("ini"),), ()),
    Given("keep", "never", "never", "failed", "failed", "always", "always", "never"),
    Given("log_dir", None, None, "line", Path("line"), "ini", Path("ini"), None),
    Given("start_timeout", 0.5, 0.5, "2", 2.0, "3", 3.0, 120.0),
    Given("lock_timeout", None, None, "2", 2.0, "3", 3.0, 2100.0),
    Given("build_timeout", None, None, "2", 2.0, "3", 3.0, 1800.0),
    Given("store_keep", None, None, "0", 0.0, "0.5", 0.5, 7.0),
    Given("lookahead", None, None, "0", 0, "3", 3, 1),
    Given("memory", None, None, "64m", 64 * 1024**2, "1.5g", 3 * 1024**3 // 2, None),
    Given("cpus", 0.5, 0.5, "1", 1.0, "1.5", 1.5, None),
    Given("pids", 100, 100, "200", 200, "300", 300, None),
    Given("runtime", None, None, "line", "line", "ini", "ini", None),
    Given("network", "mark", "mark", "line", "line", "ini", "ini", None),
    Given("port", [80], (80,), "8080", (8080,), "8081", (8081,), ()),
    Given("caveats", None, None, "mtu=ignore", ("mtu=ignore",), "error", ("error",), ()),
]

#: For each option: a bad value as text, the same as Python would give it, and the rule that the message names.
BAD = [
    ("image", "two words", "two words", "is not the name of an image; give one such as docker:28-dind"),
    ("preload", "-dash", ["-dash"], "is not the name of an image; give one such as docker:28-dind"),
    ("builds", "app:1", ["app:1"], "is not a build; give TAG PATH"),
    ("pull", "sometimes", "sometimes", "is none of missing, always, never"),
    ("registry_mirror", "mirror:5000", ["mirror:5000"], "is not the URL of a mirror; give one such as http://mirror"),
    (
        "insecure_registry",
        "http://host",
        ["http://host"],
        "is not a registry; give host, host:port, or a range such as",
    ),
    ("daemon_arg", "mtu", ["mtu"], "is not an argument of dockerd; give it whole, such as --mtu=1400"),
    ("config", "no.json", "no.json", "cannot be read: No such file or directory"),
    ("transport", "tcp", "tcp", "is none of auto, unix, tls"),
    ("mount", "/no/such/path", ["/no/such/path"], "does not exist on this machine"),
    ("keep", "sometimes", "sometimes", "is none of never, failed, always"),
    ("log_dir", "/dev/null/logs", "/dev/null/logs", "cannot be a directory: /dev/null is a file"),
    ("start_timeout", "0", 0, "is not a number of seconds above 0, such as 30 or 0.5"),
    ("lock_timeout", "0", 0, "is not a number of seconds above 0, such as 30 or 0.5"),
    ("build_timeout", "x", True, "is not a number of seconds above 0, such as 30 or 0.5"),
    ("store_keep", "-1", -1, "is not a number of days of at least 0, such as 7 or 0.5"),
    ("lookahead", "-1", 1.5, "is not a whole number from 0 to 32, such as 1"),
    ("memory", "5m", "5m", "is not a size of at least 6m; give bytes, or a number with k, m, g or t: 512m"),
    ("cpus", "0", 0, "is not a number of CPUs of at least 0.01, such as 1.5"),
    ("pids", "-1", -1, "is not a whole number above 0, such as 4096"),
    ("runtime", " ", "", "is not a text; give one that is not empty"),
    ("network", "host", "host", "would share a network stack"),
    ("port", "65536", [65536], "is not a TCP port, such as 8080"),
    ("caveats", "mtu=no", ["mtu=no"], "is none of error, warn, ignore; or give it for one caveat, such as mtu=ignore"),
]
BAD_IN_MARKERS = [bad for bad in BAD if BY_NAME[bad[0]].marker]
bad_values = pytest.mark.parametrize(("name", "text", "value", "rule"), BAD, ids=[bad[0] for bad in BAD])


@pytest.fixture(autouse=True)
def _no_image_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)


def shown(value: Any) -> str:
    """A value as a message shows it: of a list, the part that is bad."""
    return repr(value[0] if isinstance(value, list) else value)


# -- what wins


def test_these_tables_speak_of_every_option() -> None:
    # A switch has no value, and what a build says needs files; they have tests of their own.
    assert {given.name for given in GIVEN} | {*SWITCHES, "builds"} == set(BY_NAME)
    assert {bad[0] for bad in BAD} | {*SWITCHES} == set(BY_NAME)
    assert [field.name for field in dataclasses.fields(Settings)] == [option.name for option in OPTIONS]


@pytest.mark.parametrize("given", GIVEN, ids=[given.name for given in GIVEN])
def test_marker_beats_command_line_beats_environment_beats_ini_beats_default(
    given: Given, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mtu in (("line", 2), ("ini", 3)):
        (pytester.path / name).mkdir()
        (pytester.path / f"{name}.json").write_text(json.dumps({"mtu": mtu}))
    option = BY_NAME[given.name]

    def settled(*arguments: str) -> Any:
        (settings,) = resolve(pytester.parseconfig(*arguments))
        return getattr(settings, given.name)

    def absolute(expected: Any) -> Any:
        if given.name == "log_dir":
            return expected and pytester.path / expected
        return tuple(pytester.path / path for path in expected) if given.name == "mount" else expected

    line = f"{option.flag}={given.line}"
    assert settled() == given.default
    pytester.makeini(f"[pytest]\n{option.ini} = {given.ini}")
    assert settled() == absolute(given.in_ini)
    if option.variable:
        monkeypatch.setenv(option.variable, "environment:1")
        assert settled() == "environment:1"
    assert settled(line) == absolute(given.on_line)

    if not option.marker:
        return
    (settings,) = resolve(pytester.parseconfig(line))
    plurals = {"insecure_registry": "insecure_registries"}
    plurals |= {name: f"{name}s" for name in ("daemon_arg", "mount", "registry_mirror")}
    word = plurals.get(given.name, given.name)
    assert getattr(settings.changed("here", **{word: given.marker}), given.name) == given.marked


def test_only_the_image_has_an_environment_variable() -> None:
    assert {option.name: option.variable for option in OPTIONS if option.variable} == {"image": IMAGE_VARIABLE}


@pytest.mark.parametrize(
    ("ini", "arguments", "wanted"),
    [("", [], False), ("", ["--dind"], True), ("dind = true", [], True), ("dind = false", ["--dind"], True),
     ("dind = false", [], False), ("dind = 0", [], False)],
)  # fmt: skip
def test_dind_is_wanted_on_the_command_line_or_in_the_ini_file(
    ini: str, arguments: list[str], wanted: bool, inner: InnerRun, image: str
) -> None:
    inner.pytester.makeini(f"[pytest]\n{ini}")
    inner.pytester.makepyfile("def test_it(dind_settings): pass")
    result = inner.pytester.runpytest_inprocess(f"--dind-image={image}", *arguments)
    result.assert_outcomes(passed=wanted, skipped=not wanted)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(
    ("ini", "on_line", "expected"),
    [("", False, False), ("", True, True), ("= true", False, True), ("= false", True, True), ("= false", False, False)],
)
def test_a_switch_on_the_command_line_beats_the_ini_file(
    name: str, ini: str, on_line: bool, expected: bool, pytester: pytest.Pytester
) -> None:
    pytester.makeini(f"[pytest]\ndind_{name} {ini}" if ini else "[pytest]")
    config = pytester.parseconfig()
    if on_line:  # As if given: for --dind-environ, pytest itself would start a daemon.
        setattr(config.option, f"dind_{name}", True)
    (settings,) = resolve(config)
    assert getattr(settings, name) is expected


def test_environ_on_the_command_line_without_dind_is_one_usage_error(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it(): pass")
    usage_error(inner.run("--dind-environ"), "--dind-environ does nothing without --dind")
    inner.pytester.makeini("[pytest]\ndind_environ = true")
    inner.run().assert_outcomes(passed=1)


def test_repeated_options_add_up_and_one_on_the_command_line_replaces_those_of_the_ini_file(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini("[pytest]\ndind_preload =\n  one:1\n  two:2\ndind_image =\n  a:1\n  b:2")
    both = resolve(pytester.parseconfig())
    assert [one.image for one in both] == ["a:1", "b:2"]
    assert [one.preload for one in both] == [("one:1", "two:2")] * 2
    (given,) = resolve(pytester.parseconfig("--dind-image=c:3", "--dind-preload=x:1", "--dind-preload=y:1"))
    assert (given.image, given.preload) == ("c:3", ("x:1", "y:1"))


def test_paths_in_an_ini_file_count_from_where_it_lies_and_a_tilde_from_home(pytester: pytest.Pytester) -> None:
    project = pytester.mkdir("project")
    (project / "data").mkdir()
    (project / "daemon.json").write_text('{"mtu": 1400}')
    (project / "app.tar").touch()
    (project / "Dockerfile").touch()
    (project / "pytest.ini").write_text(
        "[pytest]\ndind_mount =\n  data\n  ~\ndind_config = daemon.json\n"
        "dind_preload =\n  app.tar\n  app\ndind_builds =\n  app:1 . target=tests"
    )
    (settings,) = resolve(pytester.parseconfig("-c", "project/pytest.ini"))
    # pytester's HOME is its own directory.
    assert settings.mount == (project / "data", pytester.path)
    assert settings.config == {"mtu": 1400}
    assert settings.preload == (project / "app.tar", "app")
    assert settings.builds == (Build(project, tag="app:1", target="tests"),)


@pytest.mark.parametrize("table", ["tool.pytest.ini_options", "tool.pytest"])
def test_pyproject_says_the_same_in_both_of_its_tables(table: str, pytester: pytest.Pytester) -> None:
    if table == "tool.pytest" and pytest.version_tuple < (9,):
        pytest.skip("pytest has this table from 9.0 on")
    data = pytester.mkdir("data")
    pytester.makepyprojecttoml(
        f"""
        [{table}]
        dind = false
        dind_environ = true
        dind_preload = ["a:1", "b:2"]
        dind_mount = ["data"]
        dind_pids = "100"
        """
    )
    config = pytester.parseconfig()
    (settings,) = resolve(config)
    assert not is_wanted(config)
    assert (settings.environ, settings.preload, settings.pids) == (True, ("a:1", "b:2"), 100)
    assert settings.mount == (data,)


def test_paths_on_the_command_line_count_from_the_current_directory(pytester: pytest.Pytester) -> None:
    project = pytester.mkdir("project")
    (project / "pytest.ini").touch()
    pytester.mkdir("data")
    (pytester.path / "daemon.json").write_text('{"mtu": 1400}')
    (pytester.path / "app.tgz").touch()
    (pytester.path / "data" / "Dockerfile").touch()
    (settings,) = resolve(
        pytester.parseconfig(
            "-c",
            "project/pytest.ini",
            "--dind-mount=data",
            "--dind-config=daemon.json",
            "--dind-preload=app.tgz",
            "--dind-preload=~/app.tgz",
            "--dind-builds=app:1 data",
        )
    )
    assert settings.mount == (pytester.path / "data",)
    assert settings.config == {"mtu": 1400}
    # pytester's HOME is its own directory.
    assert settings.preload == (pytester.path / "app.tgz",) * 2
    assert settings.builds == (Build(pytester.path / "data", tag="app:1"),)


def test_an_empty_value_in_the_ini_file_or_the_environment_says_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\n" + "\n".join(f"{option.ini} =" for option in OPTIONS if option.name not in SWITCHES))
    monkeypatch.setenv(IMAGE_VARIABLE, "")
    assert resolve(pytester.parseconfig()) == (Settings(),)


# -- what cannot be used


@bad_values
def test_a_bad_value_on_the_command_line_is_one_usage_error(
    name: str, text: str, value: object, rule: str, inner: InnerRun
) -> None:
    inner.pytester.makepyfile("def test_it(): pass")
    flag = BY_NAME[name].flag
    result = inner.pytester.runpytest_inprocess("--dind", f"{flag}={text}")
    usage_error(result, f"pytest-dind: {flag}: {text!r} {rule}")
    assert inner.left(none_started=True) == []


# An empty value in an ini file says nothing.
@pytest.mark.parametrize(("name", "text", "rule"), [(name, text, rule) for name, text, _, rule in BAD if text.strip()])
def test_a_bad_value_in_the_ini_file_is_one_usage_error(name: str, text: str, rule: str, inner: InnerRun) -> None:
    ini = BY_NAME[name].ini
    inner.pytester.makeini(f"[pytest]\ndind = true\n{ini} = {text}")
    inner.pytester.makepyfile("def test_it(): pass")
    result = inner.pytester.runpytest_inprocess()
    seen = inner.pytester.path / text if name == "config" else text
    usage_error(result, f"pytest-dind: ini {ini}: {str(seen)!r} {rule}")


@bad_values
def test_a_bad_value_in_settings_is_refused(name: str, text: str, value: Any, rule: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**{name: value})
    assert str(caught.value).startswith(f"Settings({name}=…): {shown(value)} {rule}")
    assert caught.value.where == f"Settings({name}=…)"


@pytest.mark.parametrize(("name", "value", "rule"), [(bad[0], *bad[2:]) for bad in BAD_IN_MARKERS])
def test_a_bad_value_in_a_marker_is_one_usage_error_before_the_first_test_runs(
    name: str, value: object, rule: str, inner: InnerRun, image: str
) -> None:
    inner.pytester.makepyfile(
        test_it=f"""
            import pytest

            def test_first(): pass

            @pytest.mark.dind({name}={value!r})
            def test_it(dind_fresh_daemon): pass
        """
    )
    result = inner.pytester.runpytest_inprocess("--dind", f"--dind-image={image}", "-p", "no:xdist")
    usage_error(result, f"pytest-dind: test_it.py::test_it, @pytest.mark.dind, {name}: {shown(value)} {rule}")
    assert "1 passed" not in str(result.stdout)


def test_a_bad_value_for_dind_factory_is_an_error_of_the_test_that_gives_it(inner: InnerRun, image: str) -> None:
    cases = [(name, value, f"dind_factory, {name}: {shown(value)} {rule}") for name, _, value, rule in BAD_IN_MARKERS]
    inner.pytester.makepyfile(
        f"""
            import pytest
            from pytest_dind import SettingsError

            @pytest.mark.parametrize(("name", "value", "message"), {cases!r})
            def test_it(dind_factory, name, value, message):
                with pytest.raises(SettingsError) as caught:
                    dind_factory(**{{name: value}})
                assert str(caught.value).startswith(message)
        """
    )
    result = inner.pytester.runpytest_inprocess("--dind", f"--dind-image={image}", "-p", "no:xdist")
    result.assert_outcomes(passed=len(BAD_IN_MARKERS))
    assert inner.left() == []


@pytest.mark.parametrize("marker", ["image=['a', 'b']", "memroy='2g'", "environ=True", "pull='never'", "'2g'"])
def test_the_marker_takes_settings_of_a_daemon_as_keywords_only(marker: str, inner: InnerRun, image: str) -> None:
    inner.pytester.makepyfile(
        test_it=f"import pytest\n@pytest.mark.dind({marker})\ndef test_it(dind_fresh_daemon): pass"
    )
    result = inner.pytester.runpytest_inprocess("--dind", f"--dind-image={image}", "-p", "no:xdist")
    where = "test_it.py::test_it, @pytest.mark.dind"
    words = (
        "config, cpus, daemon_arg, daemon_args, image, insecure_registries, insecure_registry, keep, memory, mount, "
        "mounts, network, pids, port, ports, preload, registry_mirror, registry_mirrors"
    )
    usage_error(
        result,
        {
            "image=['a', 'b']": f"{where}, image: ['a', 'b'] is not a text",
            "memroy='2g'": f"{where}: 'memroy' is not a setting of a daemon; there are {words}, runtime, start_timeout",
            "environ=True": f"{where}: 'environ' is not a setting of a daemon; there are {words}",
            "pull='never'": f"{where}: 'pull' is not a setting of a daemon; there are {words}",
            "'2g'": f"{where}: '2g' is not named; the marker takes keywords only, such as memory='2g'",
        }[marker],
    )


def test_a_bad_marker_is_one_usage_error_with_xdist_too(inner: InnerRun, image: str) -> None:
    inner.pytester.makepyfile(
        test_it="import pytest\n@pytest.mark.dind(memory=0)\ndef test_it(dind_fresh_daemon): pass"
    )
    result = inner.run("--dind", f"--dind-image={image}", "-n2")
    usage_error(result, "pytest-dind: test_it.py::test_it, @pytest.mark.dind, memory: 0 is not a size of at least 6m")
    assert inner.left() == []


def test_a_bad_value_on_the_command_line_is_one_usage_error_with_xdist_too(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it(): pass")
    usage_error(inner.run("--dind", "--dind-pids=0", "-n2"), "pytest-dind: --dind-pids: '0' is not a whole number")


def test_a_bad_image_in_the_environment_is_named_so(inner: InnerRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "two words")
    inner.pytester.makepyfile("def test_it(): pass")
    result = inner.pytester.runpytest_inprocess("--dind")
    usage_error(result, f"pytest-dind: environment {IMAGE_VARIABLE}: 'two words' is not the name of an image")


@pytest.mark.parametrize("option", ["dind", "dind_environ", "dind_clean"])
def test_a_switch_in_the_ini_file_that_is_neither_true_nor_false_is_one_usage_error(
    option: str, inner: InnerRun
) -> None:
    inner.pytester.makeini(f"[pytest]\n{option} = maybe")
    inner.pytester.makepyfile("def test_it(): pass")
    result = inner.run(*(["--dind"] if option != "dind" else []))
    usage_error(result, f"pytest-dind: ini {option}: 'maybe' is neither true nor false")


def test_without_dind_no_value_is_looked_at(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it(): pass")
    inner.pytester.runpytest_inprocess("--dind-pids=0").assert_outcomes(passed=1)


def test_a_whole_process_cannot_have_two_daemons_as_its_docker(inner: InnerRun) -> None:
    inner.pytester.makepyfile("def test_it(): pass")
    result = inner.pytester.runpytest_inprocess("--dind", "--dind-environ", "--dind-image=a:1", "--dind-image=b:1")
    usage_error(result, "pytest-dind: --dind-image: ['a:1', 'b:1'] are several, and --dind-environ gives a whole")


# -- single rules


@pytest.mark.parametrize(
    "argument",
    ["--host=tcp://0.0.0.0:2375", "--host", "-H=fd://", "-Htcp://:1", "--group=docker", "-Gdocker", "--containerd=/x",
     "--config-file=/x", "--tls", "--tlsverify=false", "--pidfile=/x", "-p", "-p/x",
     "-DH", "-DHtcp://:1"],
)  # fmt: skip
def test_what_pytest_dind_tells_dockerd_cannot_be_told_otherwise(argument: str) -> None:
    with pytest.raises(SettingsError, match=r"is set by pytest-dind itself; leave it out") as caught:
        Settings(daemon_arg=(argument,))
    assert repr(argument) in str(caught.value)


@pytest.mark.parametrize("argument", ["--label=a=b", "--mtu=1400", "--group-add=x", "--tls-something", "-D"])
def test_arguments_that_only_look_like_those_are_taken(argument: str) -> None:
    assert Settings(daemon_arg=(argument,)).daemon_arg == (argument,)


@pytest.mark.parametrize("key", ["hosts", "group", "tls", "tlsverify", "containerd", "pidfile"])
def test_what_pytest_dind_tells_dockerd_cannot_be_said_in_daemon_json(key: str, tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({key: ["tcp://0.0.0.0"]}))
    for config in ({key: "x"}, file):
        with pytest.raises(SettingsError, match=r"leave it out of daemon\.json"):
            Settings(config=config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "rule"),
    [("[1]", "is not a daemon.json: give a JSON object"), ("{", "is not a JSON file: "),
     ({"x": object()}, "cannot be written as JSON"), (7, "is not a daemon.json: give a JSON object"),
     ("\udcff".encode("utf-8", "surrogateescape"), "is not a JSON file: ")],
)  # fmt: skip
def test_a_config_that_is_no_daemon_json_is_refused(config: Any, rule: str, tmp_path: Path) -> None:
    if isinstance(config, (str, bytes)):
        file = tmp_path / "daemon.json"
        file.write_bytes(config if isinstance(config, bytes) else config.encode())
        config = file
    with pytest.raises(SettingsError) as caught:
        Settings(config=config)
    assert rule in str(caught.value)


@pytest.mark.parametrize("path", ["/", "/dev", "/etc", "/proc", "/run", "/sys", "/usr", "/var", "/var/lib/docker"])
def test_what_a_daemon_needs_for_itself_cannot_be_mounted(path: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    for spelling in (path, f"/{path}", f"{path}/", f"{path}/tmp/..", link):
        with pytest.raises(SettingsError, match="cannot be mounted into a daemon: it needs its own"):
            Settings(mount=(spelling,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"),
    [("6m", 6 * 1024**2), ("6291456", 6 * 1024**2), ("6291456b", 6 * 1024**2), (6291456, 6 * 1024**2),
     ("8192k", 8 * 1024**2), ("0.5g", 512 * 1024**2), ("512M", 512 * 1024**2), ("1G", 1024**3), ("2GiB", 2 * 1024**3),
     (" 2gb ", 2 * 1024**3), ("1t", 1024**4)],
)  # fmt: skip
def test_memory_is_bytes_or_a_number_with_a_unit(text: Any, size: int) -> None:
    assert Settings(memory=text).memory == size


@pytest.mark.parametrize("value", ["", "m", "-1g", "1e9", "5.9m", "6291455", "1 m 2", "1p", True, 0, [], "0x7000000"])
def test_memory_that_is_no_size_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="is not a size of at least 6m"):
        Settings(memory=value)


@pytest.mark.parametrize("name", ["start_timeout", "cpus"])
@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-1", True, float("nan"), [1], "0"])
def test_a_number_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match="is not a number of"):
        Settings(**{name: value})


@pytest.mark.parametrize("value", ["", "1.5", "x", True, "0", "-5", "²"])
def test_a_count_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="is not a whole number above 0, such as 4096"):
        Settings(pids=value)


@pytest.mark.parametrize("value", ["", "0", -1, True, "80/tcp", "80:80", 1.5])
def test_a_port_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"is not a TCP port, such as 8080"):
        Settings(port=(value,))


def test_the_port_of_the_daemons_own_api_is_refused() -> None:
    with pytest.raises(SettingsError, match="is the daemon's own; have the inner container publish another"):
        Settings(port=(2376,))


@pytest.mark.parametrize("network", ["host", "container:abc"])
def test_a_network_that_shares_a_stack_is_refused(network: str) -> None:
    with pytest.raises(SettingsError, match="would share a network stack, whose firewall rules the daemon"):
        Settings(network=network)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.many], ids=lambda option: option.name)
def test_a_list_is_not_a_single_text(option: Option) -> None:
    for value in ("busybox", Path("/tmp"), 7):
        with pytest.raises(SettingsError, match=r"is not a list; give one, such as \['busybox'\]"):
            Settings(**{option.name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["image", "preload", "daemon_arg", "mount", "keep", "start_timeout", *SWITCHES])
def test_none_is_no_value_for_what_must_have_one(name: str) -> None:
    with pytest.raises(SettingsError):
        Settings(**{name: None})  # type: ignore[arg-type]
    with pytest.raises(SettingsError):
        Settings().changed("here", **{name: None})


@pytest.mark.parametrize("name", ["config", "memory", "cpus", "pids", "runtime", "network"])
def test_none_takes_a_setting_away(name: str) -> None:
    given: Mapping[str, Any] = {
        "config": {}, "memory": "1g", "cpus": 1, "pids": 9, "runtime": "runc", "network": "bridge",
    }  # fmt: skip
    settings = Settings(**{name: given[name]})
    assert getattr(settings, name) is not None
    assert getattr(settings.changed("here", **{name: None}), name) is None


def test_settings_cannot_be_changed_in_place() -> None:
    settings = Settings()
    for field in dataclasses.fields(settings):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, field.name, None)
    changed = settings.changed("here", memory="1g", daemon_args=["-D"])
    assert (settings.memory, settings.daemon_arg) == (None, ())
    assert (changed.memory, changed.daemon_arg) == (1024**3, ("-D",))


@pytest.mark.parametrize(
    "file", ["./no", "../no", "/no/such/path", "~/no", "no.tar", "no.tar.gz", "no.tgz", Path("no")]
)
def test_a_file_to_preload_that_is_not_there_is_not_taken_for_an_image(file: str | Path) -> None:
    rule = f"{str(file)!r} is a file of images that cannot be read: No such file or directory"
    with pytest.raises(SettingsError, match=re.escape(rule)):
        Settings(preload=(file,))


@pytest.mark.parametrize("name", ["tar", "app:1.tar.9", "host/app", "host:5000/app:1", "a.tgz/b"])
def test_an_image_that_only_looks_like_a_file_is_an_image(name: str) -> None:
    assert Settings(preload=(name,)).preload == (name,)


@pytest.mark.parametrize(
    "url",
    ["mirror", "ftp://mirror", "http://", "http://user:word@mirror", "http://m/?a=b", "http://m:x", "http://m:99999"],
)
def test_what_dockerd_takes_for_no_mirror_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"is not the URL of a mirror; .* without a login"):
        Settings(registry_mirror=(url,))


@pytest.mark.parametrize(
    "place", ["http://host", "host:0", "host:99999", "-host", "10.0.0.0/99", "host/app", ":5000", "a b"]
)
def test_what_dockerd_takes_for_no_registry_is_refused(place: str) -> None:
    with pytest.raises(
        SettingsError, match=r"is not a registry; give host, host:port, or a range such as 10\.0\.0\.0/8"
    ):
        Settings(insecure_registry=(place,))


@pytest.mark.parametrize(
    "place", ["host", "host.example:5000", "10.0.0.1:5000", "10.0.0.0/8", "fd00::/8", "[fd00::1]:5000"]
)
def test_a_registry_is_a_host_with_or_without_a_port_or_a_range(place: str) -> None:
    assert Settings(insecure_registry=(place,)).insecure_registry == (place,)


@pytest.mark.parametrize(
    ("changes", "key", "flag"),
    [({"registry_mirror": ("http://m",)}, "registry-mirrors", "--dind-registry-mirror"),
     ({"insecure_registry": ("m",)}, "insecure-registries", "--dind-insecure-registry")],
)  # fmt: skip
def test_registries_are_said_in_one_place_only_as_dockerd_wants_it(
    changes: dict[str, Any], key: str, flag: str
) -> None:
    with pytest.raises(SettingsError, match=f"'{key}' is said by {flag}, too, and dockerd takes it from one place"):
        Settings(config={key: ["x"]}, **changes)


def test_none_is_a_value_where_it_is_the_default() -> None:
    assert [one.name for one in OPTIONS if one.optional] == [
        one.name for one in OPTIONS if getattr(Settings(), one.name) is None
    ]
