"""Where the gateway listens: what may be asked for, and who can reach it. Pure but for the trial bind."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from servable.gateway.errors import StartError

UNIX = "unix:"


class AddressError(StartError):
    """The address cannot be used: it, why, and what to do."""


@dataclass(frozen=True)
class Address:
    """A host and port, or a unix socket (`path` set)."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def private(self) -> bool:
        """Only processes of this host can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """ "host:port", "[ipv6]:port" or "unix:/path". Raises AddressError."""
    if text.startswith(UNIX):
        path = text[len(UNIX) :]
        if not path.startswith("/"):
            raise AddressError(f"{text!r}: a unix socket needs an absolute path, unix:/run/metric-learn.sock")
        return Address("", 0, path)
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"{text!r}: write an IPv6 address in brackets, [::1]:5500")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"{text!r}: must be host:port with a port of 0 to 65535, or unix:/path")
    return Address(host, int(port))


def check_free(address: Address) -> None:
    """Raises AddressError with the system's reason: gRPC itself only says that it could not bind."""
    if address.path:
        folder = Path(address.path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise AddressError(f"{address}: {folder} is no folder that this process can write to; make it first")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(address.path) == 0:
                raise AddressError(f"{address}: another server listens there; stop it or choose another path")
        return
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise AddressError(f"{address}: {error.strerror or error}; give an address of this host") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            remedy = "choose another port or stop what uses it" if error.errno == 98 else "give an address of this host"
            raise AddressError(f"{address}: {error.strerror}; {remedy}") from error
