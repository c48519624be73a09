"""Where the gateway listens: the address as given, in gRPC's form, and whether it is free right now."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from servable.address import Address, parse_address
from servable.gateway.errors import StartError

_REMEDIES = {errno.EADDRINUSE: "choose another port or stop what uses it"}


class AddressError(StartError):
    """The address cannot be used: it, why, and what to do."""


def read_address(key: str, text: str) -> Address:
    """`key`: the configuration's name for it. Raises AddressError."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise AddressError(f"{key} = {text}: {error}") from error


def write_address(address: Address) -> str:
    """As gRPC and URLs take it."""
    if address.path is not None:
        return f"unix:{address.path}"
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def check_free(key: str, address: Address) -> None:
    """Raises AddressError with the system's reason: gRPC itself only says that it could not bind."""
    where = f"{key} = {write_address(address)}"
    if address.path is not None:
        folder = Path(address.path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise AddressError(f"{where}: {folder} is no folder that this process can write to; make it first")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(address.path) == 0:
                raise AddressError(f"{where}: another server listens there; stop it or choose another path")
        return
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise AddressError(f"{where}: {error}; give an address of this host") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(name)
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "give an address of this host")
            raise AddressError(f"{where}: {error.strerror}; {remedy}") from error
