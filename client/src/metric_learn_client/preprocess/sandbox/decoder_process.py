"""The processes that decode: a nursery, started once with exec, that forks a confined decoder when one is asked for.

A pool (decoder_pool) runs in processes with many threads, which must not fork; and starting an interpreter with OpenCV
for each decoder would take a third of a second. So the nursery imports what decoding needs, stays single-threaded, sees
no picture, and forks in about a millisecond. It ends with the thread that started it and when its socket is closed; a
decoder ends with the nursery and when its own socket is closed.

A decoder and the pool share a slot, an anonymous file of fixed size: the pool writes an encoded image to it, the
decoder the pixels. Small packets on a socket say which. The pool believes nothing that it reads there (`read_reply`).

`python -m metric_learn_client.preprocess.sandbox.decoder_process DESCRIPTOR SETTINGS`, the number of an open socket.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import os
import signal
import socket
import struct
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Optional

import cv2
import numpy as np

from metric_learn_client.image_names import IMAGE_FORMATS
from metric_learn_client.preprocess import SIDE_PX, DecodeLimits, ImageError
from metric_learn_client.preprocess.header import Pixels
from metric_learn_client.preprocess.sandbox.confinement import confine, end_with_parent
from metric_learn_client.printable import printable

Preprocess = Callable[[Pixels, DecodeLimits], Pixels]

# The slot: pixels first, then the encoded images, one behind the other.
GROUP = 8  # images in one request at most: of a small picture, a request takes a tenth of the time that decoding does
PIXELS_BYTES = SIDE_PX * SIDE_PX * 3
FILE_AT = -(-GROUP * PIXELS_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE

# Packets. Pool to decoder: the request's number, then the size of each image. Decoder to pool: the number, and for each
# image the length of an ImageError's text and the text; 0 where there are pixels. Decoder to pool once: JSON of its
# process id and of what is in force.
NUMBER = struct.Struct("=Q")
SIZE = struct.Struct("=Q")
LENGTH = struct.Struct("=H")
PACKET_BYTES = 8192
_TEXT_BYTES = 400
# Pool to nursery: FORK with a decoder's end of its socket and its slot, or KILL and a process id. Nursery to pool: a
# process id and its wait status, once it has ended.
FORK, KILL = b"F", b"K"
KILL_PACKET = struct.Struct("=ci")
ENDED_PACKET = struct.Struct("=ii")

# Processor time of one image: a second, and a fifth for each megapixel. The slowest valid picture that we found, a PNG
# of 16 bits and four channels with 50 megapixels, takes 2.5 s on a busy core of 2026: a slow host has four times that.
CPU_BASE_S = 1.0
CPU_PER_MPX_S = 0.2
# Processor time of a decoder's whole life, beyond the largest image: the pool retires it long before.
_LIFE_CPU_S = 3600

# What the codecs may map beside the process as it is. Peaks of address space, measured over 50-megapixel pictures of
# every kind: 12 bytes a pixel for a progressive CMYK JPEG, 9 for one of full colour resolution, 6 for PNG and WebP.
MEMORY_PER_PX = 16
_MEMORY_BASE_BYTES = 256 * 1024 * 1024

_EXIT_UNREADABLE = 3  # exit codes of a decoder that got a request it cannot read ...
_EXIT_UNREADY = 4  # ... and of one that could not be confined


@dataclass(frozen=True)
class DecoderSettings:
    """function: "module:name" of what a decoder runs, seccomp: whether the filter is wanted; others only for tests."""

    limits: DecodeLimits = field(default_factory=DecodeLimits)
    function: str = "metric_learn_client.preprocess:preprocess"
    seccomp: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DecoderSettings:
        values = json.loads(text)
        return cls(DecodeLimits(**values["limits"]), values["function"], values["seccomp"])

    @property
    def slot_bytes(self) -> int:
        return FILE_AT + -(-self.limits.max_image_bytes // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def memory_bytes(self) -> int:
        return _MEMORY_BASE_BYTES + self.slot_bytes + MEMORY_PER_PX * self.limits.max_image_px


class _TimedLimits(DecodeLimits):
    """The limits of a decoder: once an image's size is known, so is the processor time that it may take."""

    def announce(self, pixels: int) -> None:
        signal.setitimer(signal.ITIMER_PROF, cpu_limit_s(pixels))


def cpu_limit_s(pixels: int) -> float:
    """Processor seconds that an image of so many pixels may take, from its bytes to 224 x 224."""
    return CPU_BASE_S + CPU_PER_MPX_S * pixels / 1e6


def main() -> None:
    _nursery(socket.socket(fileno=int(sys.argv[1])), DecoderSettings.from_json(sys.argv[2]))


def _nursery(control: socket.socket, settings: DecoderSettings) -> None:
    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of a master that stops: no Python is needed to end
    module, _, name = settings.function.partition(":")
    preprocess: Preprocess = getattr(importlib.import_module(module), name)
    cv2.setNumThreads(1)
    _warm_up(preprocess, settings.limits)
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("a library has started threads: a process that forks must not have any")
    children: set[int] = set()

    def reap(*_: object) -> None:
        for pid in tuple(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.discard(pid)
                with contextlib.suppress(OSError):  # the pool is gone, and so will this process be
                    control.send(ENDED_PACKET.pack(pid, status))

    signal.signal(signal.SIGCHLD, reap)
    gc.collect()
    gc.freeze()  # what is here stays shared with every decoder
    while True:
        try:
            packet, descriptors, _, _ = socket.recv_fds(control, PACKET_BYTES, 2)
        except ConnectionError:
            return  # the decoders see the end of this process
        if not packet:
            return
        if packet[:1] == FORK:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
            pid = os.fork()
            if pid == 0:
                _decoder(descriptors[0], descriptors[1], preprocess, settings)
            children.add(pid)
            for descriptor in descriptors:
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        else:
            _, pid = KILL_PACKET.unpack(packet)
            if pid in children:  # not reaped yet, so the number is not another process's
                os.kill(pid, signal.SIGKILL)


def _warm_up(preprocess: Preprocess, limits: DecodeLimits) -> None:
    """Pictures of our own through every codec: what a library does on first use is done before any confinement."""
    picture = np.arange(40 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 40, 3)
    for name in IMAGE_FORMATS:
        try:
            preprocess(cv2.imencode(f".{name}", picture)[1].ravel(), limits)
        except ImageError:
            continue


def _decoder(descriptor: int, slot: int, preprocess: Preprocess, settings: DecoderSettings) -> None:
    """The life of a forked decoder; never returns."""
    connection = socket.socket(fileno=descriptor)
    nursery = os.getppid()
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        shared = mmap.mmap(slot, settings.slot_bytes)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # what a codec prints comes from the picture
            os.dup2(nowhere, standard)
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in (0, 1, 2, descriptor):
                with contextlib.suppress(OSError):  # that of the listing itself
                    os.close(int(name))
        largest_s = int(cpu_limit_s(settings.limits.max_image_px))
        in_force = confine(
            parent=nursery,
            memory_bytes=settings.memory_bytes,
            cpu_s=_LIFE_CPU_S + 2 * largest_s,
            seccomp=settings.seccomp,
        )
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(_EXIT_UNREADY)
    try:
        connection.send(json.dumps({"pid": os.getpid(), "in_force": in_force}).encode())
        _decode_all(connection, shared, preprocess, settings.limits)
    except BaseException:
        os._exit(_EXIT_UNREADABLE)
    os._exit(0)


def _decode_all(connection: socket.socket, shared: mmap.mmap, preprocess: Preprocess, limits: DecodeLimits) -> None:
    slot, limits = np.frombuffer(shared, np.uint8), _TimedLimits(**asdict(limits))
    places = slot[: GROUP * PIXELS_BYTES].reshape(GROUP, SIDE_PX, SIDE_PX, 3)
    while True:
        packet = connection.recv(PACKET_BYTES)
        if not packet:
            return
        reply, start = [packet[: NUMBER.size]], FILE_AT
        for place, (size,) in zip(places, SIZE.iter_unpack(packet[NUMBER.size :])):
            text = _decode_one(slot[start : start + size], place, preprocess, limits).encode()[:_TEXT_BYTES]
            reply += LENGTH.pack(len(text)), text
            start += size
        connection.send(b"".join(reply))


def _decode_one(image: Pixels, out: Pixels, preprocess: Preprocess, limits: DecodeLimits) -> str:
    """Empty once `out` holds the pixels; else the text of the image's error. The kernel ends what takes too long."""
    try:
        signal.setitimer(signal.ITIMER_PROF, CPU_BASE_S)  # until its size is known
        np.copyto(out, preprocess(image, limits), casting="no")
    except ImageError as error:
        return str(error)
    except MemoryError:
        return "E_CRASH: decoding it took more memory than an image may"
    except Exception:  # a picture's failure must stay its own; what it is, preprocess says in an ImageError
        return "E_DECODE: the image could not be decoded"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def read_reply(packet: bytes, number: int, count: int, codes: frozenset[str]) -> list[Optional[ImageError]]:
    """What a decoder says of the images of request `number`: None for pixels.

    Raises ValueError for what no honest decoder sends.
    """
    if packet[: NUMBER.size] != NUMBER.pack(number):
        raise ValueError("a reply to another request")
    errors: list[Optional[ImageError]] = []
    start = NUMBER.size
    for _ in range(count):
        text = packet[start + LENGTH.size :]
        if len(packet) < start + LENGTH.size or len(text) < LENGTH.unpack_from(packet, start)[0]:
            raise ValueError("a reply is too short")
        text = text[: LENGTH.unpack_from(packet, start)[0]]
        start += LENGTH.size + len(text)
        errors.append(_error_of(text, codes) if text else None)
    return errors


def _error_of(text: bytes, codes: frozenset[str]) -> ImageError:
    code, _, message = text.decode("utf-8", "replace").partition(": ")
    if code not in codes:
        raise ValueError("a reply with a code that preprocessing does not have")
    return ImageError(code, printable(message))


def read_hello(packet: bytes) -> tuple[int, tuple[str, ...]]:
    """A new decoder's process id and what is in force. Raises ValueError where it could not be made safe."""
    value: Any = json.loads(packet)
    if "error" in value:
        raise ValueError(f"a decoder cannot be confined: {value['error']}")
    return int(value["pid"]), tuple(str(name) for name in value["in_force"])


if __name__ == "__main__":
    main()
