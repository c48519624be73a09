"""Imports grpc so that a forked child can use it: gRPC reads the switch once, when it is imported.

Every module of this package that needs grpc takes it from here. A program that imports grpc before this package, and
forks, sets GRPC_ENABLE_FORK_SUPPORT=1 itself.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

import grpc
import grpc.aio

__all__ = ["grpc"]
