"""Room on the disk: what outlives a run (image stores, builders, built images), and when it goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from . import buildcache, results, store
from .host import HostEngine
from .labels import Ownership
from .store import Store
from .sweep import is_leftover, may_live


@dataclass
class Kept:
    """What is there after a run, and what was removed at its end."""

    stores: list[Store] = field(default_factory=list)
    removed: list[Store] = field(default_factory=list)
    #: Why not all could be looked at; empty if it could.
    failed: str = ""

    def __str__(self) -> str:
        """What to say of it; nothing when there is nothing."""
        text = f"image stores: {_count(self.stores)}" if self.stores else ""
        if self.removed:
            text += f"{'; ' if text else 'image stores: '}removed {_count(self.removed)}, not used any more"
        if self.failed:
            text += f"{'; ' if text else ''}not all could be looked at that outlives a run: {self.failed}"
        return text


def tidy(engine: HostEngine, keep_days: float, project: str, used: Collection[str]) -> Kept:
    """Remove what has not been used for `keep_days` days, and stores in whose place this project has newer ones.

    :param used: The keys of the stores that this run has used.
    """
    kept = Kept()
    try:
        _tidy(engine, keep_days, project, used, kept)
    except OSError as error:  # of docker-py, or of files; what tests found is not to be lost for this
        kept.failed = str(engine.failure(error))
    return kept


def _tidy(engine: HostEngine, keep_days: float, project: str, used: Collection[str], kept: Kept) -> None:
    stores = store.all_stores(engine)
    for one in stores:
        ours = one.project == project
        old = one.days_unused > keep_days or (keep_days == 0 and ours)
        if (old or (ours and _is_superseded(one, stores, used))) and store.remove(engine, one):
            kept.removed.append(one)
        elif not one.refused:
            kept.stores.append(one)
    if keep_days > 0:  # Those are other projects' too, and 0 is said for this one.
        buildcache.remove_all(engine, older_than_days=keep_days)
        results.remove_unused(keep_days)


def _is_superseded(one: Store, stores: Iterable[Store], used: Collection[str]) -> bool:
    others = (other for other in stores if other.key in used and other.purpose == one.purpose)
    return one.key not in used and any(other.filled > one.filled for other in others)


def remove_all(engine: HostEngine, *, dry_run: bool) -> list[str]:
    """Remove all image stores, builders and built images that nobody uses; return a line for each, and what is left.

    :param dry_run: Only say what would be removed.
    """
    done = "would remove" if dry_run else "removed"
    lines = []
    for one in store.all_stores(engine):
        what = f"image store of {one.project or 'a script'}: {', '.join(one.images) or one.refused}"
        gone = not store.is_used(engine, one) if dry_run else store.remove(engine, one)
        lines.append(f"{done if gone else 'in use, left:'} {what} ({in_bytes(one.size)}, last used {one.used})")
    lines += _remove_incomplete(engine, dry_run=dry_run)
    names = buildcache.all_names(engine)
    used = {name for name in names if engine.api.containers(all=True, filters={"volume": name})}
    gone_names = set(names) - used if dry_run else set(buildcache.remove_all(engine))
    lines += [f"{done if name in gone_names else 'in use, left:'} builder with its cache: {name}" for name in names]
    size = results.size() if dry_run else results.remove_unused(0)
    lines += [f"{done} built images: {in_bytes(size)}"] if size else []
    return lines


def _remove_incomplete(engine: HostEngine, *, dry_run: bool) -> Iterator[str]:
    """Remove data that nobody will complete, of other homes and machines too; those of this home are the sweep's."""
    owners = {name: Ownership.read(labels) for name, labels in store.all_data(engine).items()}
    living = {name: may_live(ours) for name, ours in owners.items() if ours and not is_leftover(engine, ours)}
    # Looked up now: an owner may have made the entry just before it ended.
    for name in sorted(store.incomplete(engine) & set(living)):
        if dry_run:
            is_used = bool(living[name] or engine.api.containers(all=True, filters={"volume": name}))
        else:
            is_used = bool(living[name]) or not store.remove_volume(engine, name)
        done = f"{living[name] or 'in use'}, left:" if is_used else ("would remove" if dry_run else "removed")
        yield f"{done} half-filled image store: {name}"


def _count(stores: Collection[Store]) -> str:
    return f"{len(stores)} with {in_bytes(sum(one.size for one in stores))}"


def in_bytes(size: float) -> str:
    """Return a size as people read it: 1.2 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
