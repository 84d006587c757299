"""Servers in this process: whoever is to be talked to, and is not there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import io
import json
import re
import secrets
import socketserver
import tarfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers of a size known before, and no log."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address_string(self) -> str:
        return "somebody"  # On a unix socket nobody has an address.

    def log_message(self, *_: object) -> None:
        pass


class Door(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """What lies at the address of an engine."""

    daemon_threads = True
    block_on_close = False

    @classmethod
    @contextmanager
    def opened(cls, path: Path, handler: type[Handler]) -> Iterator[None]:
        with cls(str(path), handler) as door:
            threading.Thread(target=door.serve_forever, daemon=True).start()
            yield
            door.shutdown()


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class TinyImage(NamedTuple):
    """An image that holds one file, /hello, and no program."""

    #: What is in its only file.
    content: bytes
    manifest: bytes
    config: bytes
    #: Its layer as registries have it.
    layer: bytes
    #: What its layer is made of, as its configuration says.
    diff_id: str

    @classmethod
    def made(cls, content: bytes, architecture: str = "amd64") -> TinyImage:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("hello")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        layer = gzip.compress(archive.getvalue())
        diff_id = digest(archive.getvalue())
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/hello"]},
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": described(config, "application/vnd.docker.container.image.v1+json"),
                "layers": [described(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
            }
        ).encode()
        return cls(content, manifest, config, layer, diff_id)

    @property
    def blobs(self) -> dict[str, bytes]:
        """What its manifest names."""
        return {digest(part): part for part in (self.config, self.layer)}

    @property
    def ids(self) -> set[str]:
        """What an engine may call it: by its configuration, or, with the containerd store, by its manifest."""
        return {digest(self.config), digest(self.manifest)}


def described(content: bytes, kind: str) -> dict[str, Any]:
    """What a manifest says of a part of it."""
    return {"mediaType": kind, "size": len(content), "digest": digest(content)}


class Registry(http.server.ThreadingHTTPServer):
    """A registry with `tiny:1`, of one platform, and `tiny:many`, of two, whoever asks, or with a login only.

    It takes what is pushed, too, as other tags of `tiny`.

    https://github.com/opencontainers/distribution-spec/blob/main/spec.md
    """

    def __init__(self, address: str, login: str = "") -> None:
        super().__init__((address, 0), _OfRegistry)
        #: Host and port.
        self.place = f"{address}:{self.server_port}"
        self.name = f"{self.place}/tiny:1"
        self.of_many = f"{self.place}/tiny:many"
        #: "user:password" that everybody must say; nobody, if it is empty.
        self.login = login
        #: What it was asked for, without what only asks whether it is there.
        self.served: list[str] = []
        #: What is being pushed.
        self.uploads: dict[str, bytes] = {}
        # Of each registry another image: what an engine has of one it must not take for another's.
        self.one = TinyImage.made(f"hello from {self.name}".encode())
        self.many = {kind: TinyImage.made(f"{kind} from {self.name}".encode(), kind) for kind in ("amd64", "arm64")}
        self.index = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _INDEX,
                "manifests": [
                    {**described(one.manifest, _MANIFEST), "platform": {"architecture": kind, "os": "linux"}}
                    for kind, one in self.many.items()
                ],
            }
        ).encode()
        images = (self.one, *self.many.values())
        self.blobs = {name: blob for image in images for name, blob in image.blobs.items()}
        self.manifests = {digest(image.manifest): (image.manifest, _MANIFEST) for image in images}
        self.manifests[digest(self.index)] = self.index, _INDEX
        self.manifests |= {"1": (self.one.manifest, _MANIFEST), "many": (self.index, _INDEX)}
        self.ids = self.one.ids
        self.content = self.one.content

    @property
    def by_digest(self) -> str:
        """The name of `tiny:1` that nobody can give to another image."""
        return f"{self.place}/tiny@{digest(self.one.manifest)}"

    @classmethod
    @contextmanager
    def opened(cls, address: str, login: str = "") -> Iterator[Registry]:
        with cls(address, login) as registry:
            threading.Thread(target=registry.serve_forever, daemon=True).start()
            yield registry
            registry.shutdown()


_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"


class _OfRegistry(Handler):
    server: Registry

    def handle_one_request(self) -> None:
        reader: Any = self.rfile
        if reader.peek(1)[:1] == b"\x16":  # A TLS handshake; with the containerd store, an engine tries that first.
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self.close_connection = True
        else:
            super().handle_one_request()

    def do_GET(self) -> None:
        _, _, said = (self.headers["Authorization"] or "").partition("Basic ")
        if self.server.login and base64.b64decode(said).decode() != self.server.login:
            self.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="a registry for tests"')
            return
        if self.command == "GET":
            self.server.served.append(self.path)
        # A mirror is asked as `/v2/library/tiny/manifests/1?ns=docker.io`.
        found = re.fullmatch(r"/v2/(?:library/)?tiny/(manifests|blobs)/([^?]+)(?:\?.*)?", self.path)
        if self.path == "/v2/":
            self.answer(200, b"{}")
        elif found and found[1] == "manifests" and found[2] in self.server.manifests:
            manifest, kind = self.server.manifests[found[2]]
            self.answer(200, manifest, kind, Docker_Content_Digest=digest(manifest))
        elif found and found[1] == "blobs" and found[2] in self.server.blobs:
            self.answer(200, self.server.blobs[found[2]], "application/octet-stream", Docker_Content_Digest=found[2])
        else:
            self.refuse(404, "MANIFEST_UNKNOWN")

    def do_POST(self) -> None:
        self._body()
        self.accept(202, f"/v2/tiny/blobs/uploads/{secrets.token_hex(8)}")

    def do_PATCH(self) -> None:
        self.server.uploads[self.path] = self.server.uploads.get(self.path, b"") + self._body()
        self.accept(202, self.path, Range=f"0-{len(self.server.uploads[self.path]) - 1}")

    def do_PUT(self) -> None:
        upload, _, query = self.path.partition("?")
        content = self.server.uploads.pop(upload, b"") + self._body()
        tag = re.fullmatch("/v2/tiny/manifests/(.+)", upload)
        if tag:
            for name in (tag[1], digest(content)):
                self.server.manifests[name] = content, self.headers["Content-Type"]
            self.accept(201, upload, Docker_Content_Digest=digest(content))
        elif urllib.parse.parse_qs(query)["digest"] == [digest(content)]:
            self.server.blobs[digest(content)] = content
            self.accept(201, f"/v2/tiny/blobs/{digest(content)}", Docker_Content_Digest=digest(content))
        else:
            self.refuse(400, "DIGEST_INVALID")

    def accept(self, status: int, location: str, **headers: str) -> None:
        self.answer(status, b"", Location=location, **headers)

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def refuse(self, status: int, code: str, **headers: str) -> None:
        errors = {"errors": [{"code": code, "message": f"no {self.path} here"}]}
        self.answer(status, json.dumps(errors).encode(), **headers)

    do_HEAD = do_GET  # noqa: N815 (http.server's name)
