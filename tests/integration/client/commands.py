"""`metric-learn` in processes of their own, forked from one that has imported it: a start takes 20 ms, not a second.

Whatever comes after the imports is as in a real start: arguments, environment, streams, signals, the end of the
interpreter. What comes before is tested by the real starts of test_streams_and_disks, and everywhere in tests/e2e.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings

_MESSAGE_BYTES = 1 << 17


def run(*arguments, timeout=60, **options):
    """As subprocess.run with its output captured as text."""
    with Command(arguments, **options) as process:
        try:
            out, err = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


class Command:
    """What tests use of subprocess.Popen with pipes for text. streams: descriptors for standard input, output, and
    error instead of pipes; most_bytes: its files cannot be larger: a full disk, for which nobody has to be root."""

    def __init__(self, arguments, *, cwd=None, streams=None, most_bytes=None):
        self.returncode = None
        self.stdout = self.stderr = None
        with open(os.devnull) as nothing:
            theirs: tuple[int, ...] = ()
            if streams is None:
                own, theirs = zip(os.pipe(), os.pipe())
                self.stdout, self.stderr = (open(each, encoding="utf-8") for each in own)  # noqa: SIM115
            self._ended, ended = os.pipe()
            request = {
                "arguments": [str(each) for each in arguments],
                "cwd": str(cwd or os.getcwd()),
                "environment": dict(os.environ),
                "most_bytes": most_bytes,
            }
            message = json.dumps(request).encode()
            socket.send_fds(_server(), [message], [*(streams or (nothing.fileno(), *theirs)), ended])
        for each in (*theirs, ended):
            os.close(each)
        self.pid = int(_server().recv(_MESSAGE_BYTES))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wait()
        self._close()

    def poll(self):
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            status = os.read(self._ended, 100)
            os.close(self._ended)
            self.returncode = os.waitstatus_to_exitcode(int(status))
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None and not select.select([self._ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("metric-learn", timeout)
        return self.poll()

    def communicate(self, timeout=None):
        said = {}
        limit = None if timeout is None else time.monotonic() + timeout
        threads = [
            threading.Thread(target=lambda file=file: said.setdefault(file, file.read()), daemon=True)
            for file in (self.stdout, self.stderr)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(limit and max(0.0, limit - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired("metric-learn", timeout)
        self.wait(limit and max(0.1, limit - time.monotonic()))
        self._close()
        return said[self.stdout], said[self.stderr]

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def _close(self):
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()


@functools.lru_cache
def _server():
    """The socket of the process that forks; it ends when nobody holds the other end."""
    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        started = [sys.executable, __file__, str(its.fileno())]
        process = subprocess.Popen(started, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)

    def end():
        own.close()
        process.wait()

    atexit.register(end)
    return own


def _import_all():
    from metric_learn_client import cli

    for name in cli.COMMANDS:
        importlib.import_module(f"metric_learn_client.cli.{name}")
    for name in ("pyarrow.parquet", "metric_learn_client.jobs.output.objects.bucket", "s3fs"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _serve(channel):
    """Forks for every request, and tells of every end. Returns in the child alone, which is ready to begin."""
    woken, wake = os.pipe()
    for each in (woken, wake):
        os.set_blocking(each, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children = {}
    while True:
        ready = select.select([channel, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 1000)
            while children:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                ended = children.pop(pid)
                with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                    os.write(ended, str(status).encode())
                os.close(ended)
        if channel in ready:
            message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 4)
            if not message:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                _become(json.loads(message), descriptors[:3])
                return
            children[pid] = descriptors[3]
            for each in descriptors[:3]:
                os.close(each)
            channel.send(str(pid).encode())


def _become(request, streams):
    """The state of a process that was just started with these streams."""
    signal.set_wakeup_fd(-1)
    for changed in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(changed, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, each in enumerate(streams):
        os.dup2(each, number)
    os.closerange(3, 1000)
    if request["most_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["most_bytes"],) * 2)
    os.chdir(request["cwd"])
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(request["environment"])
    if "fsspec" in sys.modules:
        from fsspec.config import conf, set_conf_env

        set_conf_env(conf)  # as it does when it is imported
    sys.argv = ["metric-learn", *request["arguments"]]
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb")), "utf-8", line_buffering=os.isatty(1))
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "wb"), "utf-8", "backslashreplace", line_buffering=True, write_through=True
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


if __name__ == "__main__":
    _import_all()
    with warnings.catch_warnings(action="ignore"):  # Python's own, of forks of processes with threads: NumPy's wait
        gc.freeze()
        _serve(socket.socket(fileno=int(sys.argv[1])))
    from metric_learn_client.cli import main

    main()
