"""One job at a time on an output directory; the parts of one divided job side by side.

flock: the kernel lets go when the process ends, however it ends. Over a network it holds across hosts where the file
system's flock does (NFS 4, Lustre with -o flock, CephFS).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metric_learn_client.jobs.errors import OutputError, RefusedError
from metric_learn_client.jobs.output.durable import output_errors

_MEET_S = 5.0


@contextmanager
def job_lock(root: Path, num_shards: int, shard_index: int) -> Iterator[None]:
    """See Output.job_lock; root: the output directory."""
    with output_errors(root / ".locks"):
        (root / ".locks").mkdir(parents=True, exist_ok=True)
    with _opened(root, "job") as job, _opened(root, f"part-{shard_index}-of-{num_shards}") as part:
        if _try(job, fcntl.LOCK_EX):
            os.ftruncate(job, 0)
            os.pwrite(job, f"{num_shards}".encode(), 0)
        if num_shards > 1:
            held = _shared(job) and os.pread(job, 32, 0) == f"{num_shards}".encode()
        else:
            held = _try(job, fcntl.LOCK_EX)
        if not held:
            raise RefusedError(f"{root}: another job works on this directory; wait for it, or name another one")
        if not _try(part, fcntl.LOCK_EX):
            raise RefusedError(f"{root}: part {shard_index} of {num_shards} is being worked on already")
        yield


@contextmanager
def plan_lock(root: Path) -> Iterator[None]:
    """Waits for other parts of a divided job while they plan."""
    with _opened(root, "plan") as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(root: Path, name: str) -> Iterator[int]:
    place = root / ".locks" / name
    with output_errors(place):
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _shared(descriptor: int) -> bool:
    """Parts that start together meet for a moment: the first holds the lock alone while it writes its number."""
    limit = time.monotonic() + _MEET_S
    while not _try(descriptor, fcntl.LOCK_SH):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OutputError(f"the output directory's file system has no working locks: {error.strerror}") from error
    return True
