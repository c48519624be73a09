"""One decoder as its pool sees it: a slot of shared memory, a socket, the images that it has, and how it ended."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Optional, Union

import numpy as np

from metric_learn_client.preprocess import SIDE_PX
from metric_learn_client.preprocess.header import Pixels
from metric_learn_client.preprocess.sandbox.decoder_process import (
    CPU_BASE_S,
    CPU_PER_MPX_S,
    FILE_AT,
    NUMBER,
    PIXELS_BYTES,
    SIZE,
    DecoderSettings,
)

GROUPED_BYTES = 512 * 1024  # of images that go to a decoder together, where many wait
SLOW_S = 0.3  # processor time: another decoder takes its place meanwhile
_WALL_FACTOR = 5  # a decoder that is starved gets this many times its processor time ...
_WALL_BASE_S = 5.0  # ... and so much more, before its image is given up
_KEPT_BYTES = GROUPED_BYTES  # of a slot; what a larger file took goes back to the system


@dataclass
class Waiting:
    """An image that somebody waits for. image: the file's bytes while it waits; None while it is in a slot."""

    size: int
    image: Optional[bytes]
    future: Future[Pixels] = field(default_factory=Future)
    tries: int = 0
    alone: bool = False  # a decoder ended that had it and others: which one it was is found out one by one


class Decoder:
    """One decoder as the pool sees it, from the request for it to its end."""

    def __init__(self, settings: DecoderSettings) -> None:
        self.connection, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.setblocking(False)
        self.slot = os.memfd_create("metric-learn-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.slot, settings.slot_bytes)
        # A decoder cannot make the file shorter, which would be a SIGBUS here, or longer.
        fcntl.fcntl(self.slot, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._map = mmap.mmap(self.slot, settings.slot_bytes)
        self.memory = np.frombuffer(self._map, np.uint8)
        self.asked = time.monotonic()
        self.pid = 0  # until it has said it
        self.jobs: list[Waiting] = []
        self.number = 0
        self.done = 0
        self.began = 0.0  # with its job, by the monotonic clock ...
        self.cpu_began = 0.0  # ... and by its own processor's
        self.slow = False
        self.verdict: Optional[str] = None  # why the pool ends it, if it does; empty: not for its image
        self.killed_at = 0.0
        self.ended_at: Optional[float] = None
        self.status: Optional[int] = None  # its wait status, once the nursery has told it

    def take(self, jobs: list[Waiting], images: Sequence[Union[bytes, Pixels]], number: int) -> None:
        start = FILE_AT
        for job, image in zip(jobs, images):
            encoded = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image
            self.memory[start : start + job.size] = encoded
            start += job.size
            job.image = None
        self.jobs, self.number, self.slow = jobs, number, False
        self.began, self.cpu_began = time.monotonic(), self.cpu_s()
        try:
            self.connection.send(NUMBER.pack(number) + b"".join(SIZE.pack(job.size) for job in jobs))
        except OSError:
            return  # it has ended: its socket says so, and the images are tried elsewhere
        for job in jobs:
            job.tries += 1

    def pixels(self, place: int) -> Pixels:
        start = place * PIXELS_BYTES
        pixels: Pixels = self.memory[start : start + PIXELS_BYTES].reshape(SIDE_PX, SIDE_PX, 3).copy()
        return pixels

    def files(self) -> list[bytes]:
        """The encoded images that it has."""
        files, start = [], FILE_AT
        for job in self.jobs:
            files.append(self.memory[start : start + job.size].tobytes())
            start += job.size
        return files

    def give_back(self, size: int) -> None:
        """The pages that a large file took."""
        if size > _KEPT_BYTES:
            start = FILE_AT + _KEPT_BYTES
            self._map.madvise(mmap.MADV_REMOVE, start, len(self._map) - start)

    def cpu_s(self) -> float:
        """Processor time so far; of a process that is gone, 0."""
        try:
            return time.clock_gettime(~self.pid << 3 | 2)  # the kernel's name of a process's clock (CPUCLOCK_SCHED)
        except OSError:
            return 0.0

    def overdue(self, now: float, limit_s: float) -> Optional[str]:
        """Why it must be ended, by the processor time that an image may take; empty where that is not its image's
        fault, None where it may go on. Notes whether it is slow: then another one takes its place meanwhile."""
        wall_s = now - self.began
        if wall_s <= SLOW_S:
            return None
        used_s = self.cpu_s() - self.cpu_began
        # Where the cores are shared it may only have waited for one: more decoders would wait for it as well.
        self.slow = used_s > SLOW_S or wall_s > _WALL_BASE_S
        if self.is_stopped() or (len(self.jobs) > 1 and used_s > SLOW_S):  # in a group nobody waits for another
            return ""
        if used_s > 1.1 * limit_s:  # an honest decoder's own timer would have ended it before
            return f"decoding it took more than {limit_s:.1f} s of processor time"
        if wall_s > _WALL_BASE_S + _WALL_FACTOR * limit_s:
            return "" if used_s < CPU_BASE_S else f"decoding it took more than {wall_s:.0f} s"
        return None

    def is_stopped(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as stat:
                return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
        except OSError:
            return False

    def close(self) -> None:
        self.connection.close()
        self.theirs.close()
        os.close(self.slot)
        del self.memory
        self._map.close()


def end_reason(status: Optional[int]) -> str:
    """Why a decoder's end is its image's doing; empty where it is not, or not known."""
    if status is None:
        return ""
    if not os.WIFSIGNALED(status):
        return f"decoding it ended the decoder: exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    if number in (signal.SIGPROF, signal.SIGXCPU):
        return (
            "decoding it took more processor time than its pixels allow:"
            f" {CPU_BASE_S:g} s and {CPU_PER_MPX_S:g} s a megapixel"
        )
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        return ""
    return f"decoding it ended the decoder: {signal.Signals(number).name}"
