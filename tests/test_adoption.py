"""Images adopted from a store are what a load makes of them, whatever is done to them; else they are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import docker
import pytest

from pytest_dind import Daemon, DindWarning, Settings, container, fill, inside, stock, store
from pytest_dind.host import HostEngine
from pytest_dind.owner import Owner

from .builds import write
from .conftest import IMAGE, MATRIX, OFFICIAL, InnerRun
from .layers import (
    CAPABILITY,
    File,
    contents,
    entry,
    layer,
    layers_of,
    many_layers,
    small_files,
    strange_layers,
    write_images,
)
from .servers import Registry

pytestmark = pytest.mark.once

#: The kind of daemon that keeps images in containerd's store, as Docker does from 29 on.
CONTAINERD = "containerd"
#: Layers of the tallest image; a few are left for what tests put on top, since an image may have 125.
MANY = 100
#: Where tests look into a store.
PLACE = "/store"
SINGLE = layer(entry("s", None, 0o755), entry("s/hello", b"hello"))


@dataclass
class Place:
    """Where this module's daemons run, and who fills their stores."""

    engine: HostEngine
    owner: Owner
    directory: Path
    #: The layers of an image with a shell.
    busybox: tuple[bytes, ...]
    registry: Registry
    version_of: Callable[[str], str]

    def start(self, settings: Settings) -> Daemon:
        return Daemon.start(settings, engine=self.engine, owner=self.owner)

    def stores(self) -> list[store.Store]:
        """Those that were filled here."""
        return [one for one in store.all_stores(self.engine) if one.project == self.owner.project]

    def settings(self, kind: str, path: Path, **more: Any) -> Settings:
        """For daemons of a kind, which is an image or `CONTAINERD`, with the images of a file."""
        if kind != CONTAINERD:
            self.version_of(kind)  # or skip
            return Settings(image=kind, preload=(path,), insecure_registry=(self.registry.place,), **more)
        new = [image for image in MATRIX if int(self.version_of(image).split(".")[0]) >= 28]
        if not new:
            pytest.skip(f"no image of Docker 28 or newer is in PYTEST_DIND_MATRIX: {MATRIX}")
        return replace(self.settings(new[0], path), config={"features": {"containerd-snapshotter": True}}, **more)


@pytest.fixture(scope="module")
def place(
    host: docker.DockerClient, busybox: str, version_of: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("adoption")
    (found, *_) = host.networks.get("bridge").attrs["IPAM"]["Config"]
    with pytest.MonkeyPatch.context() as patch, Registry.opened(found["Gateway"]) as registry:
        patch.setenv("XDG_STATE_HOME", str(directory / "state"))
        engine, owner = HostEngine.connect(), Owner.claim("a-run", "worker", str(directory))
        base = layers_of(b"".join(engine.save(busybox)))
        place = Place(engine, owner, directory, base, registry, version_of)
        try:
            yield place
        finally:
            store.let_go()
            left = [one.volume for one in place.stores() if not store.remove(engine, one)]
            owner.release()
            engine.close()
        assert not left, "somebody uses these"


@pytest.fixture(autouse=True)
def _no_warning_is_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "_warned", set())
    monkeypatch.setattr(stock, "_lost", set())


def exported(daemon: Daemon, image: str) -> dict[str, File]:
    """What is in an image, below /s, as the daemon's containers see it."""
    container = daemon.client.containers.create(image, ["no program"])
    stream: Any = container.export()
    archive = b"".join(stream)
    container.remove()
    return contents([archive])


def run(daemon: Daemon, image: str, script: str) -> str:
    """What a script prints in a container."""
    container = daemon.client.containers.run(image, ["sh", "-c", script], detach=True)
    code = container.wait()["StatusCode"]
    # Only now: what an old engine streams of a container that is just ending may lack all of it.
    printed: bytes = container.logs()
    container.remove()
    assert code == 0, printed
    return printed.decode()


@contextmanager
def peeking(place: Place, volume: str, *, write: bool = False) -> Iterator[str]:
    """A container, not started, or waiting if it is to write, that has a store mounted."""
    api: Any = place.engine.api
    mounts = [
        {"Type": "volume", "Source": volume, "Target": PLACE, "ReadOnly": not write},
        {"Type": "tmpfs", "Target": "/var/lib/docker"},  # Else it has a volume there.
    ]
    wanted = {"Image": IMAGE, "Entrypoint": ["sleep", "600"], "Cmd": [], "HostConfig": {"Mounts": mounts, "Init": True}}
    container = api.create_container_from_config(wanted)["Id"]
    try:
        if write:
            api.start(container)
        yield container
    finally:
        api.remove_container(container, v=True, force=True)


def fingerprint(place: Place, volume: str) -> str:
    """A hash of all that is in a volume: names, contents, modes, owners, times, links."""
    with peeking(place, volume) as container:
        stream, _ = place.engine.api.get_archive(container, PLACE)
        found = sha256()
        for chunk in stream:
            found.update(chunk)
    return found.hexdigest()


# -- on every engine, and with either way to store images


@dataclass
class Adopted:
    """A daemon that has adopted images; its tests leave these as they are."""

    place: Place
    settings: Settings
    #: The images, and their layers.
    made: Mapping[str, tuple[bytes, ...]]
    store: store.Store
    daemon: Daemon
    #: What the store was before any daemon adopted it.
    before: str

    @property
    def client(self) -> docker.DockerClient:
        return self.daemon.client

    def is_whole(self, daemon: Daemon) -> bool:
        """Whether a daemon has adopted all images, and each under its name and id."""
        assert daemon.loaded_because == ""
        return {tag: one.id for one in daemon.client.images.list() for tag in one.tags} == self.store.images


ENGINES = [*dict.fromkeys([IMAGE, *MATRIX]), CONTAINERD]
KINDS = [*dict.fromkeys([*ENGINES, OFFICIAL])]
#: For what is dockerd's own work, which the official image's dockerd is not asked for a second time.
on_engines = pytest.mark.parametrize("adopted", ENGINES, indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def adopted(request: pytest.FixtureRequest, place: Place) -> Iterator[Adopted]:
    lowest, *_ = strange = strange_layers()
    made = {
        "single:1": (SINGLE,),
        "strange:1": (*place.busybox, *strange),
        "sister:1": (*place.busybox, lowest, layer(entry("s/plain", b"the sister's"))),
        "bare:1": (),
    }
    if request.param in ENGINES:
        made["tall:1"] = (*place.busybox, *many_layers(MANY - len(place.busybox)))
    settings = place.settings(request.param, write_images(place.directory / "images.tar", made))
    filled = fill.store_for(settings, place.engine, place.owner)
    assert filled is not None
    before = fingerprint(place, filled.volume)
    with place.start(settings) as daemon:
        yield Adopted(place, settings, made, filled, daemon, before)


@pytest.fixture(scope="module")
def elsewhere(adopted: Adopted) -> Iterator[Daemon]:
    """A daemon of the same kind that has adopted nothing."""
    with adopted.place.start(replace(adopted.settings, preload=())) as daemon:
        yield daemon


def test_what_is_adopted_is_what_was_saved(adopted: Adopted) -> None:
    assert adopted.is_whole(adopted.daemon)
    assert set(adopted.store.images) == set(adopted.made)
    for name, layers in adopted.made.items():
        found = exported(adopted.daemon, name)
        assert found == contents(layers), name
        assert len(adopted.client.images.get(name).attrs["RootFS"].get("Layers") or ()) == len(layers)
        history: Any = adopted.client.images.get(name).history()
        steps = [one["CreatedBy"] for one in history or ()]
        assert steps == [f"step {number}" for number in reversed(range(len(layers)))]
    strange = exported(adopted.daemon, "strange:1")
    assert strange["s/capable"].capability == CAPABILITY
    assert strange["s/not-\udcff\udcfe-text"].mode == 0o644
    script = "[ /s/one-of-two -ef /s/other-of-two ] && stat -c %h /s/one-of-two; id -u; cat /s/opaque/*"
    assert run(adopted.daemon, "strange:1", script) == "2\n0\nfrom above"
    if "tall:1" in adopted.made:
        assert run(adopted.daemon, "tall:1", "cat /s/newest; echo; ls /s | wc -l").split() == ["97", "99"]


@on_engines
def test_what_is_built_on_adopted_images_has_all_of_them(adopted: Adopted, tmp_path: Path) -> None:
    script = "rm /s/plain && echo -n built >/s/changed && rm -r /s/opaque && mkdir /s/opaque && echo -n x >/s/opaque/x"
    context = write(tmp_path / "context", f"FROM strange:1\nRUN {script}\nCOPY --from=tall:1 /s/newest /s/copied\n")
    expected = contents([*adopted.made["strange:1"]])
    builders: dict[str, Callable[[], object]] = {}
    builders["classic:1"] = lambda: adopted.client.images.build(path=str(context), tag="classic:1")
    if adopted.daemon.exec(["docker", "buildx", "version"])[0] == 0:
        adopted.daemon.put(context, "/context")
        builders["buildkit:1"] = lambda: adopted.daemon.exec(["docker", "build", "-t", "buildkit:1", "/context"])
    for name, build in builders.items():
        said = build()
        found = exported(adopted.daemon, name)
        assert set(expected) - set(found) == {"s/plain", "s/opaque/shown"}, (name, said)
        assert set(found) - set(expected) == {"s/copied", "s/opaque/x"}, name
        same = [path for path in expected if found.get(path) == expected[path]]
        assert set(expected) - set(same) == {"s/plain", "s/changed", "s/opaque", "s/opaque/shown"}, name
        assert run(adopted.daemon, name, "cat /s/changed /s/copied") == "built97"
        adopted.client.images.remove(name)
    assert adopted.is_whole(adopted.daemon)


@on_engines
def test_what_a_container_changes_in_adopted_layers_is_told_and_committed(adopted: Adopted) -> None:
    script = (
        "rm /s/plain && echo -n after all >/s/changed && rm -r /s/opaque && mv /s/owned /s/moved && chmod 700 /s/pipe"
    )
    container = adopted.client.containers.run("strange:1", ["sh", "-c", script], detach=True)
    assert container.wait()["StatusCode"] == 0, container.logs()
    changes = {(one["Path"], one["Kind"]) for one in container.diff()}
    modified, added, deleted = 0, 1, 2
    assert changes == {
        ("/s", modified),
        ("/s/changed", modified),
        ("/s/pipe", modified),
        ("/s/moved", added),
        ("/s/plain", deleted),
        ("/s/opaque", deleted),
        ("/s/owned", deleted),
    }
    expected = contents(adopted.made["strange:1"])
    stream, _ = container.get_archive("/s/setuid")
    assert contents([b"".join(stream)], "setuid") == {"setuid": expected["s/setuid"]}, "copied out of a lower layer"
    assert container.put_archive("/s", layer(entry("put", b"in"))), "copied onto it"
    container.commit("committed", "1")
    container.remove()
    found = exported(adopted.daemon, "committed:1")
    assert set(expected) - set(found) == {"s/plain", "s/owned", "s/opaque", "s/opaque/shown"}
    assert (found["s/moved"], found["s/pipe"].mode) == (expected["s/owned"], 0o700)
    assert run(adopted.daemon, "committed:1", "cat /s/changed /s/put") == "after allin"
    adopted.client.images.remove("committed:1")
    assert adopted.is_whole(adopted.daemon)


@on_engines
def test_adopted_images_are_saved_and_pushed_as_what_they_are(adopted: Adopted, elsewhere: Daemon) -> None:
    registry = adopted.place.registry
    adopted.client.images.get("strange:1").tag(registry.name, "pushed")
    said = adopted.client.api.push(f"{registry.place}/tiny", "pushed")
    assert "error" not in said, said
    adopted.client.images.remove(f"{registry.place}/tiny:pushed")
    elsewhere.client.images.pull(f"{registry.place}/tiny", "pushed")
    pulled = elsewhere.client.images.get(f"{registry.place}/tiny:pushed")
    assert pulled.id == adopted.store.images["strange:1"]
    assert exported(elsewhere, str(pulled.id)) == contents(adopted.made["strange:1"])
    elsewhere.client.images.remove(str(pulled.id), force=True)
    for name, layers in adopted.made.items():
        if layers:  # No engine saves an image without any: "empty export - not implemented".
            saved = b"".join(adopted.client.images.get(name).save(named=name))
            assert layers_of(saved) == layers, f"{name}, byte for byte"
            if name != "tall:1":  # An old engine takes seconds for it.
                elsewhere.client.images.load(saved)
                assert elsewhere.client.images.get(name).id == adopted.store.images[name]
                assert exported(elsewhere, name) == contents(layers), name


def test_adopted_images_are_removed_and_come_back_and_the_store_stays_what_it_was(adopted: Adopted) -> None:
    registry, made = adopted.place.registry, adopted.made
    with adopted.place.start(adopted.settings) as own:
        own.client.images.get("strange:1").tag(f"{registry.place}/tiny", "own")
        assert "error" not in own.client.api.push(f"{registry.place}/tiny", "own")
        own.client.images.remove("strange:1", force=True)
        own.client.images.remove(f"{registry.place}/tiny:own", force=True)
        assert exported(own, "sister:1") == contents(made["sister:1"]), "it shares layers with what is gone"
        own.client.images.pull(f"{registry.place}/tiny", "own")
        pulled = own.client.images.get(f"{registry.place}/tiny:own")
        assert pulled.id == adopted.store.images["strange:1"]
        assert exported(own, str(pulled.id)) == contents(made["strange:1"])
        own.client.images.remove(str(pulled.id), force=True)
        assert {own.load(one) for one in adopted.settings.preload} <= set(adopted.store.images.values())
        assert exported(own, "strange:1") == contents(made["strange:1"])
        own.client.images.remove("sister:1")
        assert exported(own, "strange:1") == contents(made["strange:1"])
        assert own.exec(["docker", "system", "prune", "--all", "--force", "--volumes"])[0] == 0
        assert own.client.images.list(all=True) == []
        own.load(write_images(adopted.place.directory / "sister.tar", {"sister:1": made["sister:1"]}))
        assert exported(own, "sister:1") == contents(made["sister:1"])
        assert fingerprint(adopted.place, adopted.store.volume) == adopted.before
        own.restart()
        assert adopted.is_whole(own)
        assert exported(own, "sister:1") == contents(made["sister:1"])


def test_a_daemon_inside_is_started_from_an_adopted_image_and_loads_adopted_images(
    engine_settings: Settings, busybox: str
) -> None:
    with Daemon.start(engine_settings) as outer:
        assert outer.loaded_because == ""
        adopted = outer.client.images.get(busybox)
        with outer.nest(Settings(image=IMAGE, preload=(busybox,))) as inner:
            assert inner.loaded_because == ""
            assert inner.client.images.get(busybox).attrs["RootFS"] == adopted.attrs["RootFS"]
            assert run(inner, busybox, "echo it runs") == "it runs\n"


def test_what_adoption_costs_is_of_the_layers_and_not_of_their_files(place: Place) -> None:
    def files_of_the_daemons_own(name: str, content: bytes) -> int:
        settings = Settings(image=IMAGE, preload=(write_images(place.directory / f"{name}.tar", {name: (content,)}),))
        with place.start(settings) as daemon:
            assert daemon.loaded_because == ""
            code, printed = daemon.exec(["find", container.DATA_ROOT, "-xdev"])
            assert code == 0, printed
            assert exported(daemon, name) == contents([content])
            return len(printed.splitlines())

    few, many = (files_of_the_daemons_own(f"of-{count}:1", small_files(count)) for count in (5, 5000))
    assert abs(many - few) < 10


# -- what cannot be adopted is loaded, and a warning says why


def test_with_a_driver_that_cannot_be_adopted_each_daemon_loads_and_one_warning_says_why(place: Place) -> None:
    settings = place.settings(IMAGE, write_images(place.directory / "vfs.tar", {"single:1": (SINGLE,)}))
    settings = replace(settings, daemon_arg=("--storage-driver=vfs",))
    with (
        pytest.warns(DindWarning, match="into each daemon, and not adopted.*: the daemons' storage driver is vfs"),
        place.start(settings) as first,
    ):
        assert exported(first, "single:1") == contents([SINGLE])
    (before,) = (one for one in place.stores() if "vfs" in one.refused)
    with warnings.catch_warnings(), place.start(settings) as second:  # A second warning would be an error.
        assert exported(second, "single:1") == contents([SINGLE])
    (after,) = (one for one in place.stores() if "vfs" in one.refused)
    assert before == after, "nobody tried to fill it again"


def test_with_data_laid_out_in_another_way_each_daemon_loads_and_a_warning_says_why(place: Place) -> None:
    settings = place.settings(IMAGE, write_images(place.directory / "remapped.tar", {"single:1": (SINGLE,)}))
    settings = replace(settings, config={"userns-remap": "default"})
    with (
        pytest.warns(DindWarning, match="(?s)not adopted.*not sealed: the data is not laid out as expected"),
        place.start(settings) as daemon,
    ):
        assert exported(daemon, "single:1") == contents([SINGLE])


@dataclass
class Victim:
    """A store that tests damage; what it was before is put back for the next one."""

    settings: Settings
    volume: str
    #: Runs a script where the store is mounted.
    run: Callable[[str], None]


@pytest.fixture(scope="module")
def victim(request: pytest.FixtureRequest, place: Place) -> Iterator[Victim]:
    settings = place.settings(request.param, write_images(place.directory / "damaged.tar", {"single:1": (SINGLE,)}))
    filled = fill.store_for(settings, place.engine, place.owner)
    assert filled is not None
    with peeking(place, filled.volume, write=True) as container:

        def run(script: str) -> None:
            assert inside.run(place.engine.api, container, ["sh", "-c", script]) == (0, "")

        run(f"cp -a {PLACE} /kept")
        yield Victim(settings, filled.volume, run)
    with place.start(settings) as daemon:
        assert daemon.loaded_because == "", "what was put back is whole, and so was what each damage was done to"


ON_CONTAINERD = f"{PLACE}/adopt/containerd/daemon/io.containerd"
BOOT = Path(container.__file__).with_name("boot.sh").read_text()
#: The shell's function that says what is to be adopted.
SUMMARY = "summary() {" + BOOT.partition("\nsummary() {")[2].partition("\n}\n")[0] + "\n}\n"
LOST, CHANGED = "the image store has lost", "the image store is not what was sealed"
DAMAGE = [
    (IMAGE, "a layer is gone", f"rm -r $(ls -d {PLACE}/overlay2/*/diff | head -n 1)", LOST),
    (IMAGE, "no way to a layer", f"rm -r {PLACE}/adopt/overlay2/*/diff {PLACE}/adopt/overlay2/l/*", CHANGED),
    (IMAGE, "all is gone", f"rm -r {PLACE}/*", "not all its images are there"),
    (IMAGE, "half of the names", f"truncate -s 20 {PLACE}/adopt/image/overlay2/repositories.json", CHANGED),
    (CONTAINERD, "a layer is gone", f"rm -r {PLACE}/containerd/daemon/*.overlayfs/snapshots/1/fs", LOST),
    (CONTAINERD, "a blob is gone", f"rm $(ls -d {PLACE}/containerd/daemon/*/blobs/sha256/* | head -n 1)", LOST),
    (CONTAINERD, "half of the names", f"truncate -s 9000 {ON_CONTAINERD}.metadata.v1.bolt/meta.db", CHANGED),
    (CONTAINERD, "no snapshots", f": >{ON_CONTAINERD}.snapshotter.v1.overlayfs/metadata.db", CHANGED),
    # Whatever it may be that boot.sh does not see and the daemon cannot start with.
    (
        IMAGE,
        "sealed with half of the names",
        f"{SUMMARY}cd {PLACE}; truncate -s 20 adopt/image/overlay2/repositories.json; summary adopt >sealed",
        "did not start: it ended",
    ),
]


@pytest.mark.parametrize(
    ("victim", "damage", "why"),
    [(kind, damage, why) for kind, _, damage, why in DAMAGE],
    ids=[f"{kind}-{what}" for kind, what, *_ in DAMAGE],
    indirect=["victim"],
)
def test_a_store_that_somebody_damaged_is_not_why_a_daemon_fails_or_has_a_wrong_image(
    place: Place, victim: Victim, damage: str, why: str
) -> None:
    victim.run(damage)
    try:
        with (
            pytest.warns(DindWarning, match=f"not adopted from an image store: with {victim.volume} inside") as warned,
            place.start(victim.settings) as daemon,
        ):
            assert exported(daemon, "single:1") == contents([SINGLE])
        assert len(warned) == 1
        assert why in str(warned[0].message)
    finally:
        victim.run(f"rm -rf {PLACE}/*; cp -a /kept/. {PLACE}/")


@pytest.mark.parametrize("victim", [IMAGE], indirect=True)
def test_a_store_that_was_found_damaged_is_not_tried_again_by_the_same_process(place: Place, victim: Victim) -> None:
    victim.run(f"rm -r {PLACE}/adopt")
    try:
        with pytest.warns(DindWarning, match="not adopted.*not all its images are there"), place.start(victim.settings):
            pass
        with warnings.catch_warnings(), place.start(victim.settings) as second:  # A second warning would be an error.
            assert exported(second, "single:1") == contents([SINGLE])
            assert second.store is None
    finally:
        victim.run(f"rm -rf {PLACE}/*; cp -a /kept/. {PLACE}/")


def test_a_run_whose_warnings_are_errors_does_not_fail_because_images_are_loaded(inner: InnerRun, busybox: str) -> None:
    inner.pytester.makepyfile(f"""
        def test_it(dind_client):
            assert dind_client.images.get({busybox!r})
    """)
    # Of the driver a caveat warns as well, which is to be an error here.
    options = ("--dind", "-p", "no:xdist", "-W", "error", f"--dind-preload={busybox}", "--dind-caveats=ignore")
    found = inner.run(*options, "--dind-daemon-arg=--storage-driver=vfs")
    found.assert_outcomes(passed=1, warnings=1)
    found.stdout.fnmatch_lines(["*DindWarning: images are loaded into each daemon*storage driver is vfs*"])
