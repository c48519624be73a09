"""The forms of an address: "host:port", "[ipv6]:port", "unix:/path". Pure: nothing is resolved or bound."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Optional

MAX_UNIX_PATH_BYTES = 107  # linux/un.h: sun_path holds 108 with its end


@dataclass(frozen=True)
class Address:
    """Either host and port, or the path of a unix socket. Port 0 takes a free one."""

    host: str = ""
    port: int = 0
    path: Optional[str] = None

    @property
    def loopback(self) -> bool:
        """True when no other machine can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Raises ValueError that says which forms are allowed."""
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        if not path.startswith("/"):
            raise ValueError("must name an absolute path after unix:")
        if len(path.encode()) > MAX_UNIX_PATH_BYTES:
            raise ValueError(f"must be at most {MAX_UNIX_PATH_BYTES} bytes after unix:")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("must hold an IPv6 address between [ and ]") from None
    elif ":" in host:
        raise ValueError("must put an IPv6 address in brackets: [::1]:5500")
    if not colon or not host or any(character.isspace() for character in host):
        raise ValueError("must be host:port, [ipv6]:port or unix:/path")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("must have a port of 1 to 65535, or 0 for a free one")
    return Address(host=host, port=int(port))
