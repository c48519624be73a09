"""What a decoder runs in tests: pictures are decoded, and a file that starts with "!" is an order to misbehave."""

import ctypes
import errno
import gc
import mmap
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from metric_learn_client.preprocess import ImageError, preprocess
from metric_learn_client.preprocess.sandbox.decoder_process import LENGTH, NUMBER


def run(image, limits):
    text = image[:200].tobytes()
    if not text.startswith(b"!"):
        return preprocess(image, limits)
    words = text.rstrip(b"\0").decode().split()
    ORDERS[words[0]](*words[1:])
    return np.full((224, 224, 3), 7, np.uint8)


def segfault():
    ctypes.memset(16, 0, 1)


def spin(seconds="1000"):
    limit = time.process_time() + float(seconds)
    while time.process_time() < limit:
        pass


def fill_memory():
    held = []
    while True:
        held.append(bytearray(64 * 1024 * 1024))


def answer(kind, number="0"):
    """Writes to the pool's socket what no honest decoder writes."""
    start = NUMBER.pack(int(number))
    packets = {"short": b"x", "other": start + LENGTH.pack(0), "long": start + LENGTH.pack(999) + b"E_DECODE: x"}
    packets["code"] = start + LENGTH.pack(10) + b"E_OTHER: x"
    connection = _socket()
    connection.send(packets[kind])
    connection.detach()
    spin("0.5")


def say(text):
    raise ImageError("E_DECODE", bytes.fromhex(text).decode())


def attempt(what, target=""):
    """Tries what a decoder must not be able to do and says what became of it."""
    try:
        ATTEMPTS[what](target)
    except (OSError, subprocess.SubprocessError) as error:
        name = errno.errorcode.get(getattr(error, "errno", 0) or 0, type(error).__name__)
        raise ImageError("E_DECODE", f"refused {name}") from None
    except RuntimeError as error:  # threading's word for EAGAIN and EPERM
        raise ImageError("E_DECODE", f"refused {error}") from None
    raise ImageError("E_DECODE", "done")


def _socket():
    return next(each for each in gc.get_objects() if isinstance(each, socket.socket))


def _fork(_):
    if os.fork() == 0:
        os._exit(0)


def _connect(target):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(target)


def _make_code(_):
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def _trace(target):
    if ctypes.CDLL(None, use_errno=True).ptrace(16, int(target), 0, 0):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")


ATTEMPTS = {
    "open": lambda target: open(target).close(),
    "write": lambda target: open(target, "w").close(),
    "connect": _connect,
    "fork": _fork,
    "thread": lambda _: threading.Thread(target=int).start(),
    "exec": lambda target: os.execv(target, [target]),
    "signal": lambda target: os.kill(int(target), signal.SIGUSR1),
    "trace": _trace,
    "code": _make_code,
    "root": lambda _: os.setuid(0),
}
ORDERS: dict[str, Callable[..., Any]] = {
    "!segfault": segfault,
    "!abort": os.abort,
    "!exit": lambda: os._exit(7),
    "!spin": spin,
    "!fill": fill_memory,
    "!answer": answer,
    "!say": say,
    "!attempt": attempt,
}
