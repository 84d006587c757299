"""Servers in this process: whoever is to be talked to, and is not there."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


class Registry(http.server.ThreadingHTTPServer):
    """A registry with one image, `tiny:1`, which holds one file, /hello, and no program.

    https://github.com/opencontainers/distribution-spec/blob/main/spec.md
    """

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _OfRegistry)
        self.name = f"{address}:{self.server_port}/tiny:1"
        #: What it was asked for, without what only asks whether it is there.
        self.served: list[str] = []
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            # Of each registry another image: what an engine has of one it must not take for another's.
            content = f"hello from {self.name}".encode()
            entry = tarfile.TarInfo("hello")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        layer = gzip.compress(archive.getvalue())
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/hello"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(archive.getvalue())]},
            }
        ).encode()
        kind = "application/vnd.docker."
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _OfRegistry.manifest_kind,
                "config": {
                    "mediaType": f"{kind}container.image.v1+json",
                    "size": len(config),
                    "digest": digest(config),
                },
                "layers": [
                    {
                        "mediaType": f"{kind}image.rootfs.diff.tar.gzip",
                        "size": len(layer),
                        "digest": digest(layer),
                    }
                ],
            }
        ).encode()
        self.blobs = {digest(config): config, digest(layer): layer}
        #: What an engine may call the image: by its configuration, or, with the containerd store, by its manifest.
        self.ids = {digest(config), digest(self.manifest)}
        self.content = content

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Registry]:
        with cls(address) as registry:
            threading.Thread(target=registry.serve_forever, daemon=True).start()
            yield registry
            registry.shutdown()


class _OfRegistry(Handler):
    manifest_kind = "application/vnd.docker.distribution.manifest.v2+json"
    server: Registry

    def do_GET(self) -> None:
        if self.command == "GET":
            self.server.served.append(self.path)
        if self.path == "/v2/":
            self.answer(200, b"{}")
        elif self.path in ("/v2/tiny/manifests/1", f"/v2/tiny/manifests/{digest(self.server.manifest)}"):
            found = digest(self.server.manifest)
            self.answer(200, self.server.manifest, self.manifest_kind, Docker_Content_Digest=found)
        elif (blob := self.server.blobs.get(self.path.rpartition("/")[2])) is not None:
            self.answer(200, blob, "application/octet-stream", Docker_Content_Digest=digest(blob))
        else:
            missing: dict[str, Any] = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": f"no {self.path} here"}]}
            self.answer(404, json.dumps(missing).encode())

    do_HEAD = do_GET  # noqa: N815 (http.server's name)
