"""Which images a Dockerfile is built on: read as BuildKit reads it, as far as that takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: https://docs.docker.com/reference/dockerfile/#parser-directives
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
#: https://docs.docker.com/reference/dockerfile/#here-documents
_HEREDOC = re.compile(r"""(?:^|\s)\d*<<(-?)(["']?)([A-Za-z_][A-Za-z0-9_]*)\2""")
#: $NAME, ${NAME}, ${NAME:-word}, ${NAME:+word}, and the same without the colon.
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^{}]*))?\})")
_FLAG = re.compile(r"--([a-z-]+)=(\S+)")


@dataclass(frozen=True)
class Needed:
    """The images that a build needs: no stages of its own, and not `scratch`."""

    #: Those that it is built on or takes files from, in the order of their first mention.
    images: tuple[str, ...]
    #: The frontend that `# syntax=` names.
    syntax: str | None

    @property
    def all(self) -> tuple[str, ...]:
        """The one and the others."""
        return (*self.images, *([self.syntax] if self.syntax else ()))


def needed(text: str, arguments: Mapping[str, str], target: str | None = None) -> Needed:
    """Return the images that the Dockerfile with this text needs, up to the stage `target`.

    A name that only the builder can know, with a variable that has no value here, is left out.

    :param arguments: The build's arguments, and what is predefined, such as TARGETARCH.
    """
    directives = _directives(text)
    variables = dict(arguments)
    stages: list[str] = []
    found: list[str] = []

    def see(image: str | None) -> None:
        known = image is None or image.lower() in ("scratch", *stages) or image.isdecimal()
        if not known and image not in found:
            found.append(str(image))

    for instruction, rest in _instructions(text, directives.get("escape", "\\")):
        flags = dict(_FLAG.findall(rest))
        if instruction == "ARG" and not stages:
            variables = _defaults(rest, variables, arguments)
        elif instruction == "FROM":
            if target is not None and target.lower() in (stages[-1:] or [""]) + [str(len(stages) - 1)]:
                break  # What comes after the stage that is built is not built.
            words = [word for word in rest.split() if not word.startswith("--")]
            see(_substituted(words[0], variables) if words else None)
            stages.append(words[2].lower() if len(words) > 2 and words[1].upper() == "AS" else "")  # noqa: PLR2004
        elif instruction == "COPY" and "$" not in flags.get("from", "$"):
            see(flags["from"])
        elif instruction == "RUN":
            for mount in re.findall(r"--mount=(\S+)", rest):
                options = dict(option.partition("=")[::2] for option in mount.split(","))
                see(options["from"] if "$" not in options.get("from", "$") else None)
    return Needed(tuple(found), directives.get("syntax"))


def _directives(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        match = _DIRECTIVE.fullmatch(line.strip())
        if not match:
            break
        found.setdefault(match[1].lower(), match[2])
    return found


def _instructions(text: str, escape: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction in capitals, and what follows it on one line; what heredocs hold is left out."""
    lines = iter(text.removeprefix("\ufeff").splitlines())
    whole = ""
    for line in lines:
        if line.lstrip().startswith("#") or (whole and not line.strip()):
            continue  # A comment, or an empty line, does not end what goes over several lines.
        if line.rstrip().endswith(escape):
            whole += line.rstrip()[: -len(escape)] + " "
            continue
        instruction, rest = _parted(whole + line)
        whole = ""
        if instruction:
            yield instruction, rest
        if instruction in ("RUN", "COPY", "ADD"):
            for dash, _, end in _HEREDOC.findall(rest):
                for inner in lines:
                    if (inner.lstrip("\t") if dash else inner) == end:
                        break
    if whole.strip():
        yield _parted(whole)


def _parted(line: str) -> tuple[str, str]:
    instruction, *rest = line.split(None, 1) or [""]
    return instruction.upper(), "".join(rest).strip()


def _defaults(rest: str, variables: dict[str, str], arguments: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with those that an ARG above the first stage adds; what the build says goes first."""
    for word in rest.split():
        name, equals, default = word.partition("=")
        value = _substituted(default.strip("\"'"), variables) if equals else None
        if name not in arguments and value is not None:
            variables[name] = value
    return variables


def _substituted(word: str, variables: Mapping[str, str]) -> str | None:
    """Return the word with its variables filled in; None when one has no value."""
    unknown = False

    def value(match: re.Match[str]) -> str:
        nonlocal unknown
        name, operator, other = match[1] or match[2], match[3] or "", match[4] or ""
        found = variables.get(name)
        there = bool(found) if operator.startswith(":") else found is not None
        if there and not operator.endswith("+"):
            return found or ""
        if operator and (there or operator.endswith("-")):
            return _VARIABLE.sub(value, other)
        unknown = unknown or not operator
        return ""

    filled = _VARIABLE.sub(value, word.strip("\"'"))
    return None if unknown or not filled else filled
