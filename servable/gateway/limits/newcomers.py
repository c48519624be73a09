"""New connections of an address wait in its own kernel while too many of its calls wait here.

A flood of new connections takes the event loop with their greetings. A filter on the listening socket drops what comes
there from the addresses that are named; their TCP sends it again after a second. Connections that stand, and those of
other addresses, are not touched.
"""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable, Sequence

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
    """sockets: where strangers connect; listening."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self.held: set[str] = set()

    def hold(self, address: str) -> None:
        """Until it is let go. Does nothing where the kernel refuses, or for a unix socket."""
        if address.startswith("ip") and address not in self.held and len(self.held) < MOST:
            self._set({*self.held, address})

    def let_go(self, address: str) -> None:
        self._set(self.held - {address})

    def _set(self, addresses: set[str]) -> None:
        if addresses == self.held:
            return
        self.held = addresses
        steps = program(sorted(addresses)) if addresses else b""
        try:
            for each in self._sockets:
                set_filter(each, steps)
        except OSError as error:
            log.warning("new connections cannot be made to wait when too many come: %s", error)
            self._sockets = ()


def set_filter(on: socket.socket, steps: bytes) -> None:
    """Steps of classic BPF decide what is kept of each packet; b"": all is. Raises OSError."""
    if steps:
        kept = ctypes.create_string_buffer(steps)
        on.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(steps) // 8, ctypes.addressof(kept)))
    else:
        on.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
