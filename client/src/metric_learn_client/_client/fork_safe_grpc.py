"""Imports grpc so that a forked child can use it: gRPC reads the switch once, when it is imported.

Every module of this package that needs grpc takes it from here. A program that imports grpc before this package, and
forks, sets GRPC_ENABLE_FORK_SUPPORT=1 itself.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

import grpc
import grpc.aio

__all__ = ["grpc", "keep_grpc"]

_kept: dict[int, Any] = {}  # of each process: what a child inherits is not its own


def keep_grpc() -> None:
    """To be called before a channel is made. gRPC shuts down behind the close of the last channel; a fork in the middle
    of it leaves the child a lock that nobody gives back. One that never connects and is never closed prevents that."""
    if os.getpid() not in _kept:
        _kept[os.getpid()] = grpc.insecure_channel("unix:never-connected")
