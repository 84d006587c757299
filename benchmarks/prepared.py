"""What the rows of `compare` need before a clock runs: images, where ours and the floor find them, and the floor."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from . import workers
from .big_images import BigImage, made
from .columns import COLUMNS, FLOOR, OURS
from .floor import Floor
from .measure import progress, reason
from .recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_dind.host import HostEngine


class Prepared:
    """Makes each thing when it is first asked for; all are gone when `with` ends."""

    def __init__(self, engine: HostEngine) -> None:
        self.images: dict[Recipe, BigImage] = {}
        self._engine = engine
        self._stack = ExitStack()
        self._floor: Floor | None = None
        #: What was tried, which is not done again, and why it could not be had; empty if it could.
        self._why_not: dict[str, str] = {}

    def __enter__(self) -> Prepared:  # noqa: PYI034 (typing.Self comes with Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def image(self, recipe: Recipe) -> str:
        """Return the tag of an image.

        :raises Exception: it cannot be made, whyever.
        """
        if recipe not in self.images:
            (self.images[recipe],) = self._stack.enter_context(made(self._engine, recipe))
        return self.images[recipe].tag

    def floor(self) -> str | None:
        """Have what bare dockerd needs; return why it cannot be had."""
        return self._once(FLOOR, self._enter_floor)

    def data_roots(self, image: str, count: int) -> str | None:
        """Have data roots with an image for bare dockerd; return why they cannot be had."""
        why_not = self.floor()
        if why_not or self._floor is None:
            return why_not
        return self._once(f"{FLOOR} {count} {image}", partial(self._floor.hold, image, count))

    def store(self, image: str) -> str | None:
        """Fill ours with an image, as it is in every run but the first; return why it cannot be."""
        return self._once(f"{OURS} {image}", partial(self._fill, image))

    def _enter_floor(self) -> None:
        self._floor = self._stack.enter_context(Floor(self._engine))

    def _fill(self, image: str) -> None:
        with workers.at_once(1, COLUMNS[OURS], image):
            pass

    def _once(self, what: str, have: Callable[[], object]) -> str | None:
        if what not in self._why_not:
            progress(f"preparing: {what}")
            try:
                have()
            except Exception as error:  # noqa: BLE001 (whatever it is, it is what is said of the cells that want it)
                self._why_not[what] = f"it could not be prepared: {reason(error)}"
            else:
                self._why_not[what] = ""
        return self._why_not[what] or None
