"""Certificates for daemons that are reached over TLS: two authorities and one client per process, made when needed.

Servers and clients have authorities of their own: what lies in one daemon's container, where its tests may read it, is
no key to any other daemon.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme

#: What the certificates say of whose they are.
_ORGANIZATION = "pytest-dind"


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Whom both sides trust, and nobody else does; its own keys are never written anywhere."""

    def __init__(self) -> None:
        import trustme  # noqa: PLC0415 (0.05 s; only TLS pays them)

        self._servers = trustme.CA(organization_name=_ORGANIZATION)
        clients = trustme.CA(organization_name=_ORGANIZATION)
        #: The certificate by which clients know the servers.
        self.certificate = self._servers.cert_pem.bytes()
        #: The certificate by which servers know the clients.
        self.clients = clients.cert_pem.bytes()
        #: What the clients of this process's daemons show.
        self.client = _identity(clients.issue_cert("client", organization_name=_ORGANIZATION))

    def issue(self, *names: str) -> Identity:
        """Return a new certificate, of a server that is dialled at these addresses and names."""
        return _identity(self._servers.issue_cert(*names, organization_name=_ORGANIZATION))


def _identity(leaf: trustme.LeafCert) -> Identity:
    return Identity(b"".join(one.bytes() for one in leaf.cert_chain_pems), leaf.private_key_pem.bytes())


_authority: Authority | None = None
_once = threading.Lock()


def authority() -> Authority:
    """Return the authority of this process; the first call takes 0.1 s, most of it the import of cryptography."""
    global _authority  # noqa: PLW0603 (one for the whole process)
    with _once:
        if _authority is None:
            _authority = Authority()
        return _authority


def prepare() -> None:
    """Have the authority made in the background, while a container is created."""
    if _authority is None:
        threading.Thread(target=_try, name="pytest-dind certificates", daemon=True).start()


def _try() -> None:
    try:
        authority()
    except Exception:  # noqa: BLE001, S110 (who needs it comes upon the same, on a thread that somebody waits for)
        pass


def _anew_in_child() -> None:
    """A thread of the parent may hold the lock; what is made already serves the child as well."""
    global _once  # noqa: PLW0603
    _once = threading.Lock()


os.register_at_fork(after_in_child=_anew_in_child)
