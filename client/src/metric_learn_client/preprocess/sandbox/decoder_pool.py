"""Decoding in processes of its own: encoded images in, pixels out, and no image can end or hold up the caller.

A DecoderPool keeps some confined decoders (decoder_process, confinement). An image that ends its decoder, takes more
processor time than its pixels allow, or makes it answer nonsense, is that image's E_CRASH; the decoder is replaced at
once. One that is ended or stopped from outside is not the image's fault: the image is tried once more.
Linux only. Thread-safe.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import selectors
import signal
import socket
import threading
import time
from concurrent.futures import Future
from typing import Callable, Optional, Union

from metric_learn_client.contract import ImageErrorCode
from metric_learn_client.preprocess import DecodeLimits, ImageError, preprocess
from metric_learn_client.preprocess.header import Pixels
from metric_learn_client.preprocess.sandbox.crashed_files import CrashedFiles
from metric_learn_client.preprocess.sandbox.decoder import GROUPED_BYTES, Decoder, Waiting, end_reason
from metric_learn_client.preprocess.sandbox.decoder_process import (
    GROUP,
    PACKET_BYTES,
    DecoderSettings,
    cpu_limit_s,
    read_hello,
    read_reply,
)
from metric_learn_client.preprocess.sandbox.nursery import Nursery

START_S = 30.0  # until a nursery's first decoder answers: an interpreter and OpenCV from a cold disk
_FORK_S = 3.0  # until a decoder that was asked for answers
_TICK_S = 0.1  # between looks at the decoders that are at work
_NOTICE_S = 0.5  # between the end of a decoder's socket and the word of how it ended
_RETIRE_AFTER = 10_000  # images of one decoder: bounds what one can do that was taken over and behaves
# A nursery that was told to end is not started again for so long. MindSpore Serving that stops sends SIGINT to its
# worker and to whatever that started, and the worker then waits up to 10 s until it has no child.
_ORDERLY_S = 2.0
_MAX_STARTS = 20  # in a row without one decoder that answers, with up to a second between them: nothing will

CODES = frozenset(code.value for code in ImageErrorCode)
_log = logging.getLogger(__name__)


class DecodersUnavailable(RuntimeError):
    """No decoder can be started on this host; says why. Never an image's fault."""


class DecoderPool:
    """`count` decoder processes. `on_restart` is called with the number of decoders replaced so far, after each.

    Raises DecodersUnavailable where no decoder can be started. Close it, or leave its `with`, to end the processes.
    """

    def __init__(
        self,
        count: int,
        limits: DecodeLimits = DecodeLimits(),
        *,
        on_restart: Callable[[int], None] = lambda restarts: None,
        settings: Optional[DecoderSettings] = None,
    ) -> None:
        self.restarts = 0  # decoders that ended and were not asked to
        self.in_force: tuple[str, ...] = ()  # of confinement, as the latest decoder said
        self._settings = settings or DecoderSettings(limits)
        self._limits = self._settings.limits
        self._count = count
        self._on_restart = on_restart
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # of the fields up to the next empty line
        self._idle: list[Decoder] = []
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._closed = False
        self._failure: Optional[DecodersUnavailable] = None

        self._crashed = CrashedFiles()
        self._decoders: set[Decoder] = set()  # these belong to the thread
        self._nursery: Optional[Nursery] = None
        self._failed_starts = 0
        self._next_start = 0.0
        self._selector = selectors.DefaultSelector()
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        self._selector.register(wake, selectors.EVENT_READ)
        self._woken = wake
        self._ready = threading.Event()
        # A daemon, and the thread that starts the nursery: the kernel ends that one with this thread.
        self._thread = threading.Thread(target=self._run, name="decoder-pool", daemon=True)
        self._thread.start()
        self._ready.wait(START_S)
        if self._failure is not None or not self._ready.is_set():
            self.close()
            raise self._failure or DecodersUnavailable(f"no decoder process answers within {START_S:g} s")

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, image: Union[bytes, Pixels]) -> Future[Pixels]:
        """One encoded image, bytes or uint8 [bytes], copied before this returns -> uint8 [224, 224, 3].

        The future raises ImageError, DecodersUnavailable, or RuntimeError once the pool is closed. It cannot be
        cancelled: whoever needs it no longer leaves it.
        """
        size = len(image)
        job = Waiting(size, None)
        job.future.set_running_or_notify_cancel()
        if not 0 < size <= self._limits.max_image_bytes:
            try:
                job.future.set_result(preprocess(image, self._limits))  # refuses by the size alone
            except ImageError as error:
                job.future.set_exception(error)
            return job.future
        known = self._crashed.error_of(image)
        if known is not None:
            job.future.set_exception(known)
            return job.future
        with self._lock:
            if self._closed or self._failure is not None:
                job.future.set_exception(self._failure or RuntimeError("the decoder pool is closed"))
            elif self._idle:
                self._idle.pop().take([job], [image], next(self._numbers))
            else:
                job.image = image if isinstance(image, bytes) else image.tobytes()
                self._waiting.append(job)
        return job.future

    def close(self) -> None:
        """Ends the processes; what is not decoded fails with RuntimeError. May be called twice."""
        with self._lock:
            self._closed = True
        self._wake_thread()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def failed(self) -> bool:
        """Whether it has given up, or was closed: another one may be tried."""
        return self._closed

    def abandon(self) -> None:
        """In a forked child: this copy's descriptors go, so that they keep nothing of the parent's alive."""
        nurseries = () if self._nursery is None else (self._nursery.control,)
        for connection in (*nurseries, self._wake, self._woken, *(each.connection for each in self._decoders)):
            connection.close()

    def _wake_thread(self) -> None:
        with contextlib.suppress(OSError):  # full, or closed: it is awake, or gone
            self._wake.send(b"w")

    # What follows runs in the pool's thread.

    def _run(self) -> None:
        try:
            while not self._closed and self._failure is None:
                self._keep_up()
                for key, _ in self._selector.select(_TICK_S):
                    self._handle(key.fileobj, key.data)
                self._look()
        except Exception as error:  # whoever waits must hear of it
            _log.exception("the decoder pool fails")
            self._failure = DecodersUnavailable(f"the decoder pool fails: {error}")
        finally:
            self._end_all()

    def _handle(self, source: object, decoder: Optional[Decoder]) -> None:
        if decoder is not None:
            if decoder in self._decoders:  # not ended by what was handled before
                self._read_decoder(decoder)
        elif source is self._woken:
            self._woken.recv(4096)
        elif self._nursery is not None and source is self._nursery.control:
            self._read_nursery(self._nursery)

    def _keep_up(self) -> None:
        """Starts what is missing: the nursery, and a decoder for each that ended or is slow."""
        if time.monotonic() < self._next_start:
            return
        if self._nursery is None:
            self._nursery = Nursery(self._settings)
            self._selector.register(self._nursery.control, selectors.EVENT_READ)
        able = sum(not decoder.slow and decoder.ended_at is None for decoder in self._decoders)
        for _ in range(min(self._count - able, 2 * self._count - len(self._decoders))):
            decoder = Decoder(self._settings)
            self._decoders.add(decoder)
            self._selector.register(decoder.connection, selectors.EVENT_READ, decoder)
            if not self._nursery.fork(decoder):
                return

    def _read_nursery(self, nursery: Nursery) -> None:
        ended = nursery.ended_decoder()
        if ended is None:
            self._lose_nursery(nursery)
            return
        pid, status = ended
        for decoder in self._decoders:  # one that was retired is no longer among them
            if decoder.pid == pid:
                decoder.status = status

    def _lose_nursery(self, nursery: Nursery) -> None:
        """It ended, or does not answer. Its decoders end with it; what they had is not their images' fault."""
        self._selector.unregister(nursery.control)
        code = nursery.end()
        _log.warning("the process that starts decoders ended (%s): it is started again", code)
        self._nursery = None
        self._start_failed()
        if code in (-signal.SIGTERM, -signal.SIGINT):
            self._next_start = time.monotonic() + _ORDERLY_S
        with self._lock:
            self._idle.clear()
        for decoder in tuple(self._decoders):
            self._conclude(decoder)

    def _start_failed(self) -> None:
        self._failed_starts += 1
        self._next_start = time.monotonic() + min(1.0, 0.01 * 2**self._failed_starts) * (self._failed_starts > 1)
        if self._failed_starts >= _MAX_STARTS or (not self._ready.is_set() and self._failed_starts > 1):
            self._failure = DecodersUnavailable("decoder processes end before they answer; the log says why")
            self._ready.set()

    def _read_decoder(self, decoder: Decoder) -> None:
        try:
            packet = decoder.connection.recv(PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._selector.unregister(decoder.connection)
            with self._lock:
                if decoder in self._idle:
                    self._idle.remove(decoder)
            decoder.ended_at = time.monotonic()
            if decoder.pid == 0 and self._nursery is not None and self._nursery.runs:
                self._start_failed()
        elif not decoder.pid:
            try:
                decoder.pid, self.in_force = read_hello(packet)
            except ValueError as error:
                self._failure = DecodersUnavailable(str(error))
                return
            self._failed_starts = 0
            if self._nursery is not None:
                self._nursery.answered = time.monotonic()
            self._feed(decoder)
            if not self._ready.is_set():
                _log.info("%d decoders, in force: %s", self._count, ", ".join(self.in_force))
                self._ready.set()
        else:
            self._read_answer(decoder, packet)

    def _read_answer(self, decoder: Decoder, packet: bytes) -> None:
        jobs = decoder.jobs
        try:
            if not jobs:
                raise ValueError("a reply to nothing")
            errors = read_reply(packet, decoder.number, len(jobs), CODES)
        except ValueError as reason:
            self._kill(decoder, f"its decoder answered nonsense: {reason}")
            return
        results = [error or decoder.pixels(place) for place, error in enumerate(errors)]
        decoder.give_back(sum(job.size for job in jobs))
        decoder.jobs = []
        decoder.done += len(jobs)
        surplus = decoder.slow and len(self._decoders) > self._count
        try:
            if decoder.done >= _RETIRE_AFTER or surplus or decoder.verdict is not None:
                self._forget(decoder)
            else:
                self._feed(decoder)
        finally:
            for job, result in zip(jobs, results):
                if isinstance(result, ImageError):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result)

    def _feed(self, decoder: Decoder) -> None:
        decoder.slow = False
        with self._lock:
            jobs = self._next_jobs()
            if jobs:
                decoder.take(jobs, [job.image or b"" for job in jobs], next(self._numbers))
            else:
                self._idle.append(decoder)

    def _next_jobs(self) -> list[Waiting]:
        """What the next decoder gets; under the lock. Several small images only where every decoder gets as many."""
        count = max(1, min(GROUP, len(self._waiting) // self._count))
        jobs: list[Waiting] = []
        size = 0
        while self._waiting and len(jobs) < count:
            size += self._waiting[0].size
            if jobs and (self._waiting[0].alone or jobs[0].alone or size > GROUPED_BYTES):
                break
            jobs.append(self._waiting.popleft())
        return jobs

    def _look(self) -> None:
        """Limits in time, and decoders whose end is known."""
        now, nursery = time.monotonic(), self._nursery
        if nursery is None:  # nor has it decoders
            return
        for decoder in tuple(self._decoders):
            if decoder.ended_at is not None:
                if decoder.status is not None or now - decoder.ended_at > _NOTICE_S:
                    self._conclude(decoder)
            elif not decoder.pid:
                # It may have been asked for long before the nursery was up.
                if now - max(decoder.asked, nursery.answered) > (_FORK_S if nursery.answered else START_S):
                    self._lose_nursery(nursery)
                    return
            elif decoder.verdict is not None:  # on its way out
                if now - decoder.killed_at > _FORK_S:
                    self._lose_nursery(nursery)
                    return
            elif decoder.jobs:
                verdict = decoder.overdue(now, cpu_limit_s(self._limits.max_image_px))
                if verdict is not None:
                    self._kill(decoder, verdict)

    def _kill(self, decoder: Decoder, verdict: str) -> None:
        """verdict: what its image is told; empty where it is not the image's fault."""
        decoder.verdict, decoder.killed_at = verdict, time.monotonic()
        if self._nursery is not None:
            self._nursery.kill(decoder)

    def _conclude(self, decoder: Decoder) -> None:
        """A decoder has ended: what becomes of the images that it had."""
        jobs, files = decoder.jobs, decoder.files()
        self._forget(decoder)
        self.restarts += 1
        self._on_restart(self.restarts)
        reason = decoder.verdict if decoder.verdict is not None else end_reason(decoder.status)
        _log.warning(
            "a decoder ended (process %d, status %s)%s",
            decoder.pid,
            decoder.status,
            f" with images of {', '.join(str(job.size) for job in jobs)} bytes: {reason or 'not its fault'}"
            if jobs
            else "",
        )
        if len(jobs) > 1:
            for job in jobs:
                job.alone, job.tries = True, 0
        for job, image in zip(reversed(jobs), reversed(files)):
            self._settle(job, image, reason)

    def _settle(self, job: Waiting, image: bytes, reason: str) -> None:
        """Tries the image again, or fails it."""
        if job.tries <= (0 if reason else 1):
            job.image = image
            with self._lock:
                self._waiting.appendleft(job)
                while self._idle and self._waiting:
                    taker, again = self._idle.pop(), self._waiting.popleft()
                    taker.take([again], [again.image or b""], next(self._numbers))
            return
        error = ImageError(ImageErrorCode.CRASH.value, reason or "its decoder was ended from outside, twice")
        if reason:
            self._crashed.add(image, error)
        job.future.set_exception(error)

    def _forget(self, decoder: Decoder) -> None:
        """Its socket and slot go; a decoder that still runs ends by that."""
        self._decoders.discard(decoder)
        if decoder.ended_at is None:
            self._selector.unregister(decoder.connection)
        with self._lock:
            if decoder in self._idle:
                self._idle.remove(decoder)
        decoder.close()

    def _end_all(self) -> None:
        with self._lock:
            self._closed = True
            jobs = list(self._waiting)
            self._waiting.clear()
        jobs += [job for decoder in self._decoders for job in decoder.jobs]
        for decoder in tuple(self._decoders):
            self._forget(decoder)
        if self._nursery is not None:
            self._nursery.end()
        self._selector.close()
        self._wake.close()
        self._woken.close()
        self._ready.set()
        for job in jobs:
            job.future.set_exception(self._failure or RuntimeError("the decoder pool was closed"))
