"""The processes of a server, and what is left when it has ended."""

import contextlib
import re
import time
from pathlib import Path

import psutil

from tests.patience import patient

from .conftest import start, stop


def master_of(server):
    """The MindSpore Serving that serves: the child of the server process that has workers."""
    return next(child for child in psutil.Process(server.process.pid).children() if child.children())


def masters_of(server):
    return [child for child in psutil.Process(server.process.pid).children() if child.children()]


def worker_of(server):
    return master_of(server).children()[0]


def decoders_of(server):
    """The nursery's children."""
    return [decoder for nursery in worker_of(server).children() for decoder in nursery.children()]


def tree_of(server):
    process = psutil.Process(server.process.pid)
    return [process, *process.children(recursive=True)]


def wait_until(condition, timeout_s, what):
    began = time.monotonic()
    while True:
        try:
            if condition():
                return
        except (psutil.Error, StopIteration, IndexError):
            pass
        seconds = time.monotonic() - began
        assert seconds < patient(timeout_s), f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


def running(processes):
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def marked(run_dir):
    """Processes that a server of this run directory started, wherever they hang now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("METRIC_LEARN_RUN_DIR") == str(Path(run_dir).resolve()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def assert_nothing_left(run_dir, segments_before):
    """No process, socket, private directory or shared memory segment."""
    assert not marked(run_dir)
    left = [path for path in Path(run_dir).rglob("*") if path.is_socket() or path.name.startswith("serving-")]
    assert not left
    owners = {name: re.search(r"metric_learn.*_pid(\d+)", name) for name in segments() - segments_before}
    # Those of a process that runs are another server's: of this one none does.
    assert not [name for name, owner in owners.items() if owner and not psutil.pid_exists(int(owner[1]))]


def segments():
    return {path.name for path in Path("/dev/shm").iterdir()}


@contextlib.contextmanager
def server_in(run_dir, *flags, **arguments):
    """A server for one test; whatever the test does, nothing of it runs on."""
    server = start(run_dir, *flags, **arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        for process in marked(run_dir):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended with its parent
                process.kill()
        stop(server)


@contextlib.contextmanager
def serving_in(run_dir, *flags, **arguments):
    """`server_in`, of a server that must come to serve: the others would only say that nothing answers."""
    with server_in(run_dir, *flags, **arguments) as server:
        assert server.ready_line.startswith("ready"), server.said()
        yield server


def noticing_hangs_soon(*flags):
    """Settings of a server: it notices a hang after some seconds, and does not take a busy machine for one."""
    return (f"readiness.deadline_s={patient(2):.1f}", *flags)
