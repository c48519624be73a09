"""Long steps of one call, done in a thread, so that the event loop goes on with everybody else's calls.

It helps because what is long here is either done without the interpreter's lock (joining bytes, base64) or is many
short steps, between which the loop has its turn. What is smaller stays where it is: for 32 photos of 67 KB, 3 MB
of JSON, a thread makes the call a third dearer, and without one the loop is held for 0.4 ms.
"""

from __future__ import annotations

import asyncio
from typing import Callable, TypeVar

TURN_BYTES = 4 * 1024 * 1024  # what is worked through at one turn of the event loop, 1 to 3 ms
T = TypeVar("T")


async def aside(size: int, step: Callable[[], T]) -> T:
    """What `step` returns or raises. size: bytes that it works through."""
    return step() if size <= TURN_BYTES else await asyncio.to_thread(step)
