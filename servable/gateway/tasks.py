"""Tasks whose first steps are taken at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def started(loop: asyncio.AbstractEventLoop, run: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Where Python can (3.12): most of what a call needs is done then. Before: in the loop's next turn."""
    try:
        return asyncio.Task(run, loop=loop, eager_start=True)
    except TypeError:
        return loop.create_task(run)
