"""Memory that is free inside this process: kept for the next call, and back to the system when a peak has passed.

glibc gives a large block back as soon as it is free. The body of each call of many images would be new memory, which
the kernel hands out and clears page by page: with 32 images of pixels a call, a seventh of what gateway, master and
worker take of the processor.

glibc keeps what is freed between two pieces that are still in use, in an arena for each thread: after a flood
that is most of what the flood took. `malloc_trim` gives such pages back (malloc_trim(3), from glibc 2.8 on).
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from typing import Callable

import psutil

INTERVAL_S = 5.0
PAUSE_S = 30.0  # between two times: what honest calls free and take again costs page faults
WORTH_BYTES = 24 * 1024 * 1024  # more than this over what was left the last time
GROWS_BYTES = 4 * 1024 * 1024  # in an interval: less is the noise of ordinary calls

# mallopt(3): variable, parameter, value. The first is the most that it takes; the last counts in all threads.
_KEPT = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 32 * 1024 * 1024),
    ("MALLOC_TRIM_THRESHOLD_", -1, 64 * 1024 * 1024),
    ("MALLOC_TOP_PAD_", -2, 16 * 1024 * 1024),
)
# All threads share one arena: of the others `malloc_trim` gives back what lies between, and not what lies at the end.
_ARENAS = ("MALLOC_ARENA_MAX", -8, 1)


def keep_memory() -> None:
    """What calls free stays with this process for the next ones. Before other threads begin; does nothing under
    another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for _, parameter, value in (*_KEPT, _ARENAS):
            mallopt(parameter, value)


def memory_environment() -> dict[str, str]:
    """The same for a process that is started with it."""
    return {name: str(size) for name, _, size in _KEPT}


def resident_bytes() -> int:
    """Of this process. Raises OSError."""
    return int(psutil.Process().memory_info().rss)


async def give_back_memory(interval_s: float = INTERVAL_S, pause_s: float = PAUSE_S) -> None:
    """Until it is cancelled. Does nothing under another C library. While memory grows it is in use, and left alone."""
    trim: Callable[[int], int]
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    least = before = 0
    next_at = time.monotonic()
    while True:
        try:
            now = resident_bytes()
            passed = now < before + GROWS_BYTES
            if least and now > least + WORTH_BYTES and passed and time.monotonic() >= next_at:
                next_at = time.monotonic() + pause_s
                await asyncio.to_thread(trim, 0)  # tens of milliseconds, without the interpreter's lock
                least = now = resident_bytes()
            least, before = min(least or now, now), now
        except OSError:  # out of descriptors, which passes
            pass
        await asyncio.sleep(interval_s)
