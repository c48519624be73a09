"""New connections of an address wait in its own kernel while too many of its calls wait here.

A flood of new connections takes the cores in gRPC's own threads, before anything here sees a call. A filter on the
listening socket drops what comes there from the addresses that are named; their TCP sends it again after a second.
Connections that stand, and those of other addresses, are not touched.
"""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import socket
import stat
import struct
from collections.abc import Iterable

MOST = 16  # addresses at one time
_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of Linux; Python has no names for them
# Classic BPF (linux/filter.h): what each instruction is, with the header of the network layer at SKF_NET_OFF.
_LOAD_WORD, _LOAD_BYTE, _SHIFT_RIGHT, _JUMP_EQUAL, _RETURN = 0x20, 0x30, 0x74, 0x15, 0x06
_NETWORK = 0xFFF00000
_ALL = 0xFFFFFFFF
log = logging.getLogger(__name__)


def program(addresses: Iterable[str]) -> bytes:
    """The filter: nothing is kept of packets from these addresses, as `address_of` writes them. Pure."""
    four = [int(ipaddress.IPv4Address(each[5:])) for each in addresses if each.startswith("ipv4:")]
    six = [int(each[5:], 16) for each in addresses if each.startswith("ipv6:")]
    steps = [(_LOAD_BYTE, 0, 0, _NETWORK), (_SHIFT_RIGHT, 0, 0, 4), (_JUMP_EQUAL, 0, 2 * len(four) + 1, 4)]
    steps.append((_LOAD_WORD, 0, 0, _NETWORK + 12))
    for address in four:
        steps += [(_JUMP_EQUAL, 0, 1, address), (_RETURN, 0, 0, 0)]
    # Behind those of IPv4 an IPv4 packet reads on as if it were IPv6; so it is let go here.
    steps += [(_LOAD_BYTE, 0, 0, _NETWORK), (_SHIFT_RIGHT, 0, 0, 4), (_JUMP_EQUAL, 1, 0, 6), (_RETURN, 0, 0, _ALL)]
    for network in six:
        steps += [(_LOAD_WORD, 0, 0, _NETWORK + 8), (_JUMP_EQUAL, 0, 3, network >> 32)]
        steps += [(_LOAD_WORD, 0, 0, _NETWORK + 12), (_JUMP_EQUAL, 0, 1, network & _ALL), (_RETURN, 0, 0, 0)]
    steps.append((_RETURN, 0, 0, _ALL))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


class Newcomers:
    """sockets: where strangers connect; TCP, listening. They are closed with `close`."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self.held: set[str] = set()

    def hold(self, address: str) -> None:
        """Until it is let go. Does nothing where the kernel refuses, or for a unix socket."""
        if address.startswith("ip") and address not in self.held and len(self.held) < MOST:
            self._set({*self.held, address})

    def let_go(self, address: str) -> None:
        self._set(self.held - {address})

    def close(self) -> None:
        self._set(set())
        for each in self._sockets:
            each.close()
        self._sockets = []

    def _set(self, addresses: set[str]) -> None:
        if addresses == self.held:
            return
        self.held = addresses
        steps = program(sorted(addresses))
        kept = ctypes.create_string_buffer(steps)
        try:
            for each in self._sockets:
                if addresses:
                    given = struct.pack("HP", len(steps) // 8, ctypes.addressof(kept))
                    each.setsockopt(socket.SOL_SOCKET, _ATTACH, given)
                else:
                    each.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
        except OSError as error:
            log.warning("new connections cannot be made to wait when too many come: %s", error)
            self._sockets = []


def listening_sockets(port: int) -> list[socket.socket]:
    """This process's own TCP sockets that listen at `port`, each a duplicate to be closed: gRPC hands out none."""
    found = []
    for number in [int(name) for name in os.listdir("/proc/self/fd") if _is_socket(int(name))]:
        try:
            each = socket.socket(fileno=os.dup(number))
        except OSError:  # gone since
            continue
        if (
            each.family in (socket.AF_INET, socket.AF_INET6)
            and each.type == socket.SOCK_STREAM
            and each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and each.getsockname()[1] == port
        ):
            found.append(each)
        else:
            each.close()
    return found


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # the listing's own is closed by now
        return False
