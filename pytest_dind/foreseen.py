"""Which settings a test's daemons will have, before its turn: what its parameters and the suite's fixtures tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from .options import image_of
from .session import Session
from .settings import Settings

#: For each scope of a fixture, what all who share it are in; what is made for each test is known to no other.
_SHARED_WITHIN: dict[str, type[pytest.Collector]] = {
    "session": pytest.Session,
    "package": pytest.Package,
    "module": pytest.Module,
    "class": pytest.Class,
}


class _Known(NamedTuple):
    """What a `dind_settings` of the suite's own has turned out to be, and for whom it counts."""

    definition: pytest.FixtureDef[object]
    within: pytest.Collector
    parameters: dict[str, object]
    settings: Settings

    def counts_for(self, other: _Known) -> bool:
        """Whether it is the same fixture, shared with others, and made from the same parameters."""
        return (
            self.definition is other.definition
            and self.within is other.within
            and self.parameters.keys() == other.parameters.keys()
            and all(_is_same(value, other.parameters[name]) for name, value in self.parameters.items())
        )


class Foreseen:
    """What is known of the `dind_settings` that tests will see."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: list[_Known] = []

    def note(self, item: pytest.Item, definition: pytest.FixtureDef[object], settings: Settings) -> bool:
        """Hear what a fixture has turned out to be for a test; return whether that says more than was known."""
        definitions = _definitions(item)
        if not definitions or definitions[-1] is not definition or self.settings(item) == settings:
            return False
        found = _described(item, definitions, settings)
        if found is not None:
            self._known = [one for one in self._known if not one.counts_for(found)]
            self._known.append(found)
        return found is not None

    def definition(self, item: pytest.Item) -> object:
        """Return the fixture `dind_settings` that a test sees; those of other tests may be others."""
        return next(reversed(_definitions(item)), None)

    def settings(self, item: pytest.Item) -> Settings | None:
        """Return what `dind_settings` will be for a test; None while nobody knows, as a conftest has its own."""
        definitions = _definitions(item)
        if not definitions:
            return None
        module = definitions[-1].func.__module__
        parameters = _parameters(item)
        if module == "pytest_dind.plugin":
            return self._session.settings_for(image_of(item, self._session.settings[0].image))
        given = parameters.get("dind_settings")
        if module.startswith("_pytest.") and isinstance(given, Settings):  # by @pytest.mark.parametrize
            return given
        sought = _described(item, definitions, self._session.settings[0])
        if sought is None:
            return None
        return next((one.settings for one in self._known if one.counts_for(sought)), None)


def _definitions(item: pytest.Item) -> Sequence[pytest.FixtureDef[object]]:
    """Return the definitions of `dind_settings` that a test sees; the last one is what it gets."""
    found: Any = getattr(item, "_fixtureinfo", None)
    definitions: Sequence[pytest.FixtureDef[object]] = getattr(found, "name2fixturedefs", {}).get("dind_settings", ())
    return definitions


def _parameters(item: pytest.Item) -> dict[str, Any]:
    found: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return found


def _described(
    item: pytest.Item, definitions: Sequence[pytest.FixtureDef[object]], settings: Settings
) -> _Known | None:
    """Say of a test's `dind_settings` who shares it, and which of the test's parameters it hangs on."""
    shared = _SHARED_WITHIN.get(definitions[-1].scope)
    within = item.getparent(shared) if shared is not None else None
    if within is None:
        return None
    parameters = _parameters(item)
    names = _needed(item, "dind_settings")
    return _Known(definitions[-1], within, {name: parameters[name] for name in names if name in parameters}, settings)


def _needed(item: pytest.Item, name: str) -> set[str]:
    """Return the names of a fixture and of all that it asks for, whatever these are in the end."""
    found: Any = getattr(item, "_fixtureinfo", None)
    definitions = getattr(found, "name2fixturedefs", {})
    names: set[str] = set()
    left = [name]
    while left:
        name = left.pop()
        if name not in names:
            names.add(name)
            left += [asked for one in definitions.get(name, ()) for asked in one.argnames]
    return names


def _is_same(one: object, other: object) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # noqa: BLE001 (whatever a suite's own objects do, as arrays do when they are compared)
        return False
