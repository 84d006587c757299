"""Remove containers that ended longer ago than some seconds, and images that have no name: a clean-up job."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import docker


def prune_old(client: docker.DockerClient, *, older_than: float, now: datetime | None = None) -> list[str]:
    """Remove what is old and return its names.

    :param older_than: Seconds that a container must have been at its end.
    """
    limit = (now or datetime.now(timezone.utc)) - timedelta(seconds=older_than)
    removed = []
    for container in client.containers.list(all=True, filters={"status": "exited"}):
        # To the second is enough; Docker gives more digits than Python reads.
        ended = datetime.fromisoformat(container.attrs["State"]["FinishedAt"][:19] + "+00:00")
        if ended < limit:
            container.remove(v=True)
            removed.append(container.name)
    for image in client.images.list(filters={"dangling": True}):
        client.images.remove(image.id)
        removed.append(image.short_id)
    return removed
