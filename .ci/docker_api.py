"""What the set-up asks of the Docker engine. Through the SDK: a machine with an engine need not have a client."""  # noqa: INP001

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import docker
from docker.errors import APIError, DockerException, ImageNotFound

from pytest_dind.labels import OURS, ROLE, Ownership
from pytest_dind.locks import host_id, is_dead
from pytest_dind.places import leases_dir, sockets_dir

#: Seconds. A registry that cannot be reached is to be known soon; the engine itself would try for minutes.
REGISTRY_PATIENCE = 15
#: Seconds for everything else: a busy engine may take its time over a big image.
PATIENCE = 300


def ping(_: docker.DockerClient, __: argparse.Namespace) -> None:
    """Fail unless an engine answers; making the client has asked it for its version."""


def have(client: docker.DockerClient, args: argparse.Namespace) -> None:
    """Fail unless the engine has the image."""
    client.images.get(args.image)


def pull(client: docker.DockerClient, args: argparse.Namespace) -> None:
    """Pull an image; fail soon when no registry can be reached."""
    docker.from_env(timeout=REGISTRY_PATIENCE).images.get_registry_data(args.image)
    repository, _, tag = args.image.partition(":")
    client.images.pull(repository, tag=tag or "latest")


def adopt(client: docker.DockerClient, args: argparse.Namespace) -> None:
    """Make an image of the root file system that comes as a tar on standard input; it replaces one of that name."""
    before = _id_of(client, args.image)
    repository, _, tag = args.image.partition(":")
    client.api.import_image_from_data(_blocks(sys.stdin.buffer), repository=repository, tag=tag, changes=args.change)
    client.images.get(args.image)  # the engine reports a failed import in a text that the SDK does not read
    _replaced(client, before, args.image)


def build(client: docker.DockerClient, args: argparse.Namespace) -> None:
    """Build a folder with a Dockerfile; the image that had the name before is removed."""
    before = _id_of(client, args.image)
    arguments = dict(pair.split("=", 1) for pair in args.build_arg)
    client.images.build(path=str(args.context), tag=args.image, buildargs=arguments, rm=True, forcerm=True)
    _replaced(client, before, args.image)


def _id_of(client: docker.DockerClient, image: str) -> str | None:
    try:
        return client.images.get(image).id
    except ImageNotFound:
        return None


def _replaced(client: docker.DockerClient, before: str | None, image: str) -> None:
    """Remove what had the name before, unless somebody uses it still."""
    if before not in {None, _id_of(client, image)}:
        with suppress(APIError):
            client.images.remove(before)


def tags(client: docker.DockerClient, args: argparse.Namespace) -> None:
    """Print the tags that a repository has on the engine."""
    for image in client.images.list(args.image):
        for name in image.tags:
            repository, _, tag = name.rpartition(":")
            if repository == args.image:  # and not another name of the same image
                sys.stdout.write(f"{tag}\n")


def ids(client: docker.DockerClient, args: argparse.Namespace) -> None:
    """Print the ids of images."""
    for image in args.images:
        sys.stdout.write(f"{client.images.get(image).id}\n")


def save(client: docker.DockerClient, args: argparse.Namespace) -> None:
    """Write images to standard output as one tar; what they share is in it once, which the SDK's own `save` cannot."""
    url = f"{client.api.base_url}/v{client.api.api_version}/images/get"
    with client.api.get(url, params={"names": args.images}, stream=True) as answer:
        answer.raise_for_status()
        shutil.copyfileobj(answer.raw, sys.stdout.buffer, 1 << 20)


def left(client: docker.DockerClient, args: argparse.Namespace) -> int:
    """Run a command, then show what there is of the plugin; fail if the command failed or left some of it."""
    before = dict(_ours(client))
    # Ctrl-C goes to the command as well, and that has things to put away. (A handler: to ignore it would be inherited.)
    signal.signal(signal.SIGINT, lambda *_: None)
    status = subprocess.run(args.argv, check=False).returncode  # noqa: S603 (what the Makefile says)
    after = dict(_ours(client))
    # What has an owner that lives belongs to another run: this one has ended.
    remains = [thing for thing, ownerless in after.items() if ownerless and thing not in before]
    others = [thing for thing in after if thing not in remains]
    kinds = "Containers, networks and volumes on the engine, and socket directories"
    sys.stdout.write(f"{kinds} that this has left: {', '.join(remains) or 'none'}.\n")
    if others:
        sys.stdout.write(f"Those of other runs: {', '.join(others)}.\n")
    sys.stdout.write("Image stores and builders are meant to stay; pytest-dind prune removes them.\n")
    return status or int(bool(remains))


def _ours(client: docker.DockerClient) -> Iterator[tuple[str, bool]]:
    """Yield what there is of the plugin, and whether its owner is dead."""
    filters = {"label": OURS}
    for container in client.api.containers(all=True, filters=filters):
        yield f"container {container['Names'][0].lstrip('/')}", _is_ownerless(container["Labels"])
    for network in client.api.networks(filters=filters):
        yield f"network {network['Name']}", _is_ownerless(network["Labels"])
    for volume in client.api.volumes(filters=filters)["Volumes"] or []:
        if ROLE not in volume["Labels"]:
            yield f"volume {volume['Name']}", _is_ownerless(volume["Labels"])
    for directory in sockets_dir().glob(f"{host_id()}-*-*-*"):
        _, slot, token, _ = directory.name.split("-")
        yield f"directory {directory}", is_dead(f"{leases_dir() / slot}.lock#{token}")


def _is_ownerless(labels: dict[str, str]) -> bool:
    ours = Ownership.read(labels)
    return ours is not None and ours.host == host_id() and is_dead(ours.lease)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(1 << 20):
        yield block


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command in (ping, have, pull, adopt, build, tags, ids, save, left):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.set_defaults(command=command)
        if command in {have, pull, adopt, build, tags}:
            sub.add_argument("image")
        if command in {ids, save}:
            sub.add_argument("images", nargs="+")
        if command is left:
            sub.add_argument("argv", nargs=argparse.REMAINDER)
        if command is adopt:
            sub.add_argument("--change", action="append", default=[])
        if command is build:
            sub.add_argument("context", type=Path)
            sub.add_argument("--build-arg", action="append", default=[])
    return parser


def main() -> int:
    """Run one command; one line on standard error says why it failed."""
    args = _parser().parse_args()
    try:
        return args.command(docker.from_env(timeout=5 if args.command is ping else PATIENCE), args) or 0
    except (DockerException, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
