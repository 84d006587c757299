"""Warnings of ours, which come to whoever waits for what they are about, and not to a thread behind their back."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from .errors import DindWarning


class Notice(NamedTuple):
    """One warning."""

    message: str
    #: Whether it says of something that only costs time: where warnings are errors, this one is not.
    harmless: bool


_kept: ContextVar[list[Notice] | None] = ContextVar("_kept", default=None)


def warn(message: str, *, harmless: bool = False, stacklevel: int = 2) -> None:
    """Warn now, or where the warnings of this context are `kept`, later."""
    later = _kept.get()
    if later is not None:
        later.append(Notice(message, harmless))
        return
    with warnings.catch_warnings():
        if harmless:
            warnings.simplefilter("always", DindWarning)
        warnings.warn(message, DindWarning, stacklevel=stacklevel + 1)


@contextmanager
def kept() -> Iterator[list[Notice]]:
    """Keep what this context warns of, and the threads on which it has its work done, for `repeat`."""
    notices: list[Notice] = []
    token = _kept.set(notices)
    try:
        yield notices
    finally:
        _kept.reset(token)


def repeat(notices: list[Notice]) -> None:
    """Warn of what was kept, once."""
    while notices:
        notice = notices.pop(0)
        warn(notice.message, harmless=notice.harmless, stacklevel=3)


def are_errors(messages: Iterable[str]) -> bool:
    """Warn of each; return whether the user's filters make an error of one, which is not raised here."""
    raised = []
    for message in messages:
        try:
            warn(message, stacklevel=3)
        except DindWarning as error:
            raised.append(error)
    return bool(raised)
