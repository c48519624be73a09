"""Addresses: can they be bound, now, by this user. Each is bound for a moment and released."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from servable.address import Address, parse_address
from servable.doctor.problem import NOT_READY, Problem, wrong
from servable.sections import Config

REMEDIES = {
    errno.EADDRINUSE: "end the process that has it (`ss -ltnp`), or choose another port",
    errno.EADDRNOTAVAIL: "choose an address of this host, or 0.0.0.0",
    errno.EACCES: "choose a port above 1023",
}


def network_problems(config: Config) -> Iterator[Problem]:
    for key in ("server.address", "server.http_address"):
        address = parse_address(getattr(config.server, key.partition(".")[2]))
        if address.path is not None:
            yield from _unix(config, key, Path(address.path))
        else:
            yield from _tcp(config, key, address)


def _tcp(config: Config, key: str, address: Address) -> Iterator[Problem]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        yield wrong(config, key, f"{address.host} is no address ({reason})", "give an IP address of this host")
        return
    family, kind, protocol, _, name = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(name)
            probe.listen(1)  # two sockets may be bound to one port as long as neither listens
        except OSError as error:
            code = NOT_READY if error.errno == errno.EADDRINUSE else 2
            remedy = REMEDIES.get(error.errno or 0, "choose another")
            yield wrong(config, key, os.strerror(error.errno or 0), remedy, exit_code=code)


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
