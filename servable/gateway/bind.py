"""Where the gateway listens: addresses that fit each other, safe in plain text or with TLS, and free right now."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servable.config.addresses import Address, parse_address
from servable.config.problem import CONFIGURATION, NOT_READY, Problem, value_of, wrong
from servable.config.sections import Config

GRPC, API, HTTP = "server.address", "server.api_address", "server.http_address"
ALL_HOSTS = ("0.0.0.0", "::")
_REMEDIES = {
    errno.EADDRINUSE: "end the process that has it (`ss -ltnp`), or choose another port",
    errno.EADDRNOTAVAIL: "choose an address of this host, or 0.0.0.0",
    errno.EACCES: "choose a port above 1023",
}


def address_problems(config: Config) -> Iterator[Problem]:
    """Each address is bound for a moment and released."""
    addresses = {key: parse_address(value_of(config, key)) for key in (GRPC, API, HTTP) if value_of(config, key)}
    seen: dict[str, Address] = {}
    for key, address in addresses.items():
        other = next((each for each in seen if _collide(key, address, each, seen[each])), None)
        if other is not None:
            yield wrong(config, key, f"is {other} too", "choose another port for one of them")
        seen[key] = address
        if key == HTTP and address.path is not None:
            yield wrong(config, key, "probes and metrics speak HTTP over TCP", "give host:port")
            continue
        if key != HTTP and _exposed(config, address):
            yield wrong(
                config,
                key,
                "others can reach it in plain text",
                "set security.tls_certificate and security.tls_private_key, use 127.0.0.1, or, behind a mesh that "
                "encrypts, security.allow_insecure: true",
            )
        yield from _unix(config, key, Path(address.path)) if address.path is not None else _tcp(config, key, address)


def _collide(key: str, address: Address, other_key: str, other: Address) -> bool:
    """Whether two listeners cannot have both at one time."""
    if address.path is not None and other.path is not None:
        return os.path.realpath(address.path) == os.path.realpath(other.path)
    if address.port != other.port or not address.port:  # 0 is a free port, or a unix socket
        return False
    return any(
        one == two or ((":" in one) == (":" in two) and not {one, two}.isdisjoint(ALL_HOSTS))
        for one in _hosts(key, address)
        for two in _hosts(other_key, other)
    )


def _hosts(key: str, address: Address) -> set[str]:
    """The IP addresses behind it; none where the name has none, which `_tcp` says."""
    try:
        hosts = {str(name[0]) for *_, name in _resolved(address)}
    except (socket.gaierror, UnicodeError):
        return set()
    both = "::" in hosts and key != HTTP  # listener.py listens on IPv4 there too, and observe/http_pages.py does not
    return hosts | set(ALL_HOSTS) if both else hosts


def _exposed(config: Config, address: Address) -> bool:
    security = config.security
    return not address.loopback and security.tls_certificate is None and not security.allow_insecure


def write_address(address: Address) -> str:
    """As gRPC and URLs take it."""
    if address.path is not None:
        return f"unix:{address.path}"
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def cannot_bind(config: Config, key: str, error: OSError) -> Problem:
    """What the system said to an address."""
    code = NOT_READY if error.errno == errno.EADDRINUSE else CONFIGURATION
    remedy = _REMEDIES.get(error.errno or 0, "choose another")
    return wrong(config, key, os.strerror(error.errno or 0), remedy, exit_code=code)


def usable_hosts(address: Address) -> list[str]:
    """The IP addresses behind a host name that can be bound now; "localhost" is often two, of which one may not exist.

    Raises OSError where one is in use, or none can be bound; UnicodeError and socket.gaierror where there is none.
    """
    hosts, error = [], None
    for family, kind, protocol, _, name in _resolved(address):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(name)
                probe.listen(1)  # two sockets may be bound to one port as long as neither listens
            hosts.append(str(name[0]))
        except OSError as failure:
            if failure.errno == errno.EADDRINUSE:  # a caller of that address would meet somebody else
                raise
            error = failure
    if error is not None and not hosts:
        raise error
    return hosts


def _resolved(address: Address) -> list[tuple[Any, ...]]:
    """As socket.getaddrinfo, which may raise socket.gaierror and UnicodeError."""
    return list(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))


def _tcp(config: Config, key: str, address: Address) -> Iterator[Problem]:
    try:
        usable_hosts(address)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        yield wrong(config, key, f"{address.host} is no address ({reason})", "give an IP address of this host")
    except OSError as error:
        yield cannot_bind(config, key, error)


def _unix(config: Config, key: str, path: Path) -> Iterator[Problem]:
    if not path.parent.is_dir():
        yield wrong(config, key, f"{path.parent} is not a directory", "create it")
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        yield wrong(config, key, f"{path.parent} is not writable for this user", "choose another")
    elif path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        yield wrong(config, key, "exists and is not a socket", "choose another path")
    elif path.exists() and _answers(path):
        yield wrong(config, key, "another server answers there", "stop it, or choose another", exit_code=NOT_READY)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            return True
        except OSError:
            return False
