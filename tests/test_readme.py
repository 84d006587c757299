"""README says what is true: its tables are what pytest itself shows, and its example runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pytest_dind.caveats import CAVEATS
from pytest_dind.settings import _PLURALS, Settings
from pytest_dind.table import OPTIONS

from .conftest import InnerRun

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_options_is_what_help_shows(inner: InnerRun) -> None:
    shown = inner.run("--help").stdout.str()
    in_help = set(re.findall(r"^  (--dind[a-z-]*)", shown, re.MULTILINE))
    in_readme = {cells[0].strip("`") for cells in rows("Options")}
    assert in_readme == in_help
    in_ini = set(re.findall(r"^  (dind[a-z_]*) \(", shown, re.MULTILINE))
    assert {name.lstrip("-").replace("-", "_") for name in in_readme} == in_ini


def test_the_defaults_in_the_table_are_those_of_settings() -> None:
    in_readme = {cells[0].strip("`"): cells[2].strip("`") for cells in rows("Options")}
    for option in OPTIONS:
        default = getattr(Settings(), option.name)
        if default not in (None, (), False):
            said = f"{default:g}" if isinstance(default, float) else str(default)
            assert in_readme[option.flag] == said
        else:
            assert in_readme[option.flag] in {
                "none",
                "warn",
                "no limit",
                "off",
                "base temp only",
                "the engine's",
                "the engine's bridge",
            }


def test_the_table_of_caveats_says_what_the_warnings_say() -> None:
    in_readme = [(cells[0].strip("`"), *cells[1:]) for cells in rows("Caveats")]
    assert in_readme == [(caveat.id, caveat.what, caveat.cure) for caveat in CAVEATS]


def test_the_table_of_fixtures_is_what_fixtures_shows(inner: InnerRun) -> None:
    shown = inner.run("--fixtures").stdout.str()
    found = dict(re.findall(r"^(dind_\w+)(?: \[(\w+) scope\])? -- ", shown, re.MULTILINE))
    in_readme = {cells[0].strip("`"): cells[1] for cells in rows("Fixtures")}
    assert in_readme == {name: scope or "function" for name, scope in found.items()}


def test_every_fixture_has_a_help_text(inner: InnerRun) -> None:
    inner.pytester.makeconftest("import pytest\n@pytest.fixture\ndef dind_without_help(): pass")
    shown = inner.run("--fixtures").stdout.str()
    without = re.findall(r"^(dind_\w+)[^\n]*\n\s+no docstring available", shown, re.MULTILINE)
    assert without == ["dind_without_help"], "only the one that is there to show that it would be found"


def test_the_marker_is_shown_with_all_its_words(inner: InnerRun) -> None:
    shown = inner.run("--markers").stdout.str()
    words = re.search(r"@pytest\.mark\.dind\(([^)]*)\)", shown)
    assert words
    found = [_PLURALS.get(word, word) for word in words[1].split(", ")]
    assert sorted(found) == sorted(option.name for option in OPTIONS if option.marker)


def test_the_example_runs(inner: InnerRun, busybox: str) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    inner.pytester.makepyfile(code[1].replace("busybox:latest", busybox))
    inner.run("-p", "no:xdist").assert_outcomes(skipped=1)
    inner.run("--dind", "-n", "2").assert_outcomes(passed=1)


def test_the_conftest_with_images_to_prepare_works(inner: InnerRun, busybox: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    inner.pytester.makeconftest(blocks[1].replace("busybox:latest", busybox))
    app = inner.pytester.mkdir("app")
    (app / "Dockerfile").write_text(f"FROM {busybox}\nARG VERSION\nRUN echo $VERSION >/version\n")
    inner.pytester.makepyfile("""
        def test_it(dind_client, dind_build):
            assert dind_client.containers.run("app:test", "cat /version", remove=True) == b"1\\n"
            image = dind_build("app", tag="app:test", buildargs={"VERSION": "1"})
            assert image == dind_client.images.get("app:test").id
    """)
    inner.run("--dind", "-p", "no:xdist").assert_outcomes(passed=1)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_link_leads_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_what_it_costs_is_said_in_ratios_each_with_the_command_that_measures_it() -> None:
    section = README.split("\n## What it costs\n")[1].split("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        heading, line, *measured = table.splitlines()
        assert set(line) <= set("|-: ")
        assert len(measured) >= 5
        for row in measured:
            assert row.count("|") == heading.count("|")
            assert re.search(r"\d|QUIET", row.partition("|")[2].partition("|")[2]), f"no number in {row}"
    assert "`make bench`" in section
    commands = re.findall(r"make bench ONLY=\"?([\w ]+)", README)
    assert commands
    names = {name for command in commands for name in command.split()}
    assert [name for name in names if not (ROOT / "benchmarks" / f"{name}.py").exists()] == []


def test_every_ratio_is_filled_in_from_a_run_while_the_machine_did_nothing_else() -> None:
    assert re.findall(r"^.*\bQUIET\b.*$", README, re.MULTILINE) == []


#: What is said in units of time or of size: how something is to be, and never what it takes on some machine.
SAID = {
    "370 MB": "an image to measure with",
    "1 GB": "another",
    "half a second": "what a test in a suite to measure with takes",
    "5 ms": "a limit",
    "two seconds": "from when on something is said of what takes long",
    "1500 bytes": "what Docker takes for the size of packets",
    "few bytes": "of a lock file",
    "a week": "a default",
}
_AMOUNT = r"\d[\d.,]*|half an?|an?|one|two|three|four|five|ten|twenty|hundred|thousand|few|some|several"
_UNIT = r"m?s|(?:milli)?seconds?|minutes?|hours?|days?|weeks?|[kMG]i?B|(?:kilo|mega|giga)?bytes?"


def test_no_figure_in_it_is_of_some_machine() -> None:
    found = re.findall(rf"\b((?:{_AMOUNT})[\s-](?:{_UNIT}))\b", README)
    assert {" ".join(one.split()) for one in found} == SAID.keys()


def test_make_bench_runs_the_benchmarks_that_it_is_told_to() -> None:
    for words, ran in (([], "compare"), (["ONLY=images clean"], "images clean")):
        shown = subprocess.run(["make", "-n", "bench", *words], cwd=ROOT, check=True, capture_output=True, text=True)
        assert f"-m benchmarks {ran} --json bench.json" in shown.stdout


def test_nothing_in_it_is_still_to_be_written() -> None:
    assert re.findall(r"^\W*(?:[A-Z]{4,}|TODO\b.*|\.\.\.)\W*$", README, re.MULTILINE) == []


#: Other pipelines for the suite of examples/jenkins.
PIPELINES = {"github", "gitlab"}
FOLDERS = [path for path in sorted((ROOT / "examples").iterdir()) if path.is_dir() and path.name[0] not in "._"]
EXAMPLES = [path for path in FOLDERS if path.name not in PIPELINES]


def test_there_are_at_least_three_examples_each_with_tests() -> None:
    assert len(EXAMPLES) >= 3
    assert [path.name for path in EXAMPLES if not [*path.glob("test_*.py")]] == []


def test_every_pipeline_has_a_readme_that_leads_to_its_suite() -> None:
    found = {path.name for path in FOLDERS if "(../jenkins)" in (path / "README.md").read_text(encoding="utf-8")}
    assert found == PIPELINES


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_every_example_has_a_readme_and_is_named_in_it(folder: Path) -> None:
    assert f"pytest --dind -n 2 examples/{folder.name}" in (folder / "README.md").read_text(encoding="utf-8")
