"""Endpoints as the user writes them, and the targets behind them. Pure: names are resolved elsewhere.

An endpoint is "host:port", "[v6]:port", "unix:/path" or one of gRPC's own forms ("dns:///name:port"). A host name with
several addresses becomes several targets, each with a channel of its own, so that a dead one can be left out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Union

_GRPC_FORM = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|xds|vsock):")
_LOCALHOST = "localhost"


@dataclass(frozen=True)
class Target:
    """address: what gRPC dials. endpoint: what the user wrote. authority: the name to ask for, where it differs.
    proxy: what it is reached through, as messages name it."""

    endpoint: str
    address: str
    authority: Optional[str] = None
    proxy: Optional[str] = None

    def __str__(self) -> str:
        through = "" if self.proxy is None else f" through the proxy {self.proxy}"
        return (self.endpoint if self.address == self.endpoint else f"{self.endpoint} ({self.address})") + through


def parse_endpoints(endpoints: Union[str, Sequence[str]]) -> tuple[str, ...]:
    """ "a:1,b:2" or a sequence -> distinct endpoints in order. Raises ValueError with the one that is wrong."""
    given = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    found: list[str] = []
    for each in given:
        if not isinstance(each, str):
            raise ValueError(f"an endpoint is a string, not {each!r}")
        endpoint = each.strip()
        if not _GRPC_FORM.match(endpoint):
            split_host_port(endpoint)
        if endpoint not in found:
            found.append(endpoint)
    if not found:
        raise ValueError("no endpoint: write host:port")
    return tuple(found)


def split_host_port(endpoint: str) -> tuple[str, int]:
    """Host without brackets, and port. Raises ValueError."""
    if "://" in endpoint:
        raise ValueError(f"endpoint {endpoint!r}: write host:port without a scheme (for TLS set tls=)")
    host, colon, port = endpoint.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"endpoint {endpoint!r}: write host:port with a port of 1 to 65535, or unix:/path")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host) or re.search(r"[\s/\[\]]", bare):
        raise ValueError(f"endpoint {endpoint!r}: the host is wrong; write host:port, or [v6-address]:port")
    return bare, int(port)


def host_name_of(endpoint: str) -> Optional[tuple[str, int]]:
    """(name, port) where the endpoint's host is a name that may have several addresses, else None."""
    if _GRPC_FORM.match(endpoint):
        return None
    host, port = split_host_port(endpoint)
    return None if _is_address(host) or host == _LOCALHOST else (host, port)


def expand(endpoint: str, addresses: Sequence[str], proxy: Optional[str] = None) -> tuple[Target, ...]:
    """The targets of an endpoint whose name has these addresses; one address is left to gRPC, by name, and a name
    behind a proxy to the proxy."""
    name = host_name_of(endpoint)
    if name is None or len(addresses) < 2 or proxy is not None:
        return (Target(endpoint, endpoint, proxy=proxy),)
    host, port = name
    return tuple(
        Target(endpoint, f"[{address}]:{port}" if ":" in address else f"{address}:{port}", host)
        for address in addresses
    )


def is_local(endpoint: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if endpoint.startswith(("unix:", "unix-abstract:", "vsock:")):
        return True
    hosts = hosts_of(endpoint)
    return bool(hosts) and all(
        host == _LOCALHOST or (_is_address(host) and ipaddress.ip_address(host).is_loopback) for host in hosts
    )


def hosts_of(endpoint: str) -> tuple[str, ...]:
    """The hosts that an endpoint names; none for gRPC's forms that name none, or ask a name server of their own."""
    if not _GRPC_FORM.match(endpoint):
        return (split_host_port(endpoint)[0],)
    form, _, rest = endpoint.partition(":")
    if form not in ("dns", "ipv4", "ipv6") or (rest.startswith("//") and not rest.startswith("///")):
        return ()
    each = rest.lstrip("/").split(",")
    return tuple(
        re.sub(r":\d+$", "", host).strip("[]") if "]" in host or host.count(":") < 2 else host for host in each
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
