"""What goes to standard error becomes log lines, few, and never holds its writer up. In a process of its own."""

import os
import resource
import subprocess
import sys

from servable.config.sections import REPOSITORY

SCRIPT = """
import logging, os, sys
from servable.gateway.observe.logs import configure_logging
from servable.config.sections import LogSection
from servable.host.own_process import StandardErrorLog
captured = StandardErrorLog()
close = configure_logging(LogSection(format="json"), captured.stream)
captured.start()
{body}
captured.stop()
close()
"""


def run(body, **options):
    command = [sys.executable, "-c", SCRIPT.format(body=body)]
    return subprocess.run(command, cwd=REPOSITORY, timeout=30, text=True, **options)


def test_a_line_of_grpc_becomes_a_line_of_the_log():
    line = r"E1126 14:25:16.533506     725 call.cc:360] Compression algorithm 'gzip' is disabled.\n"
    said = run(f'os.write(2, b"{line}")', stderr=subprocess.PIPE).stderr
    assert '"level": "error"' in said and "gRPC: Compression algorithm 'gzip' is disabled. (call.cc:360)" in said
    assert len(said.splitlines()) == 1


def test_a_flood_of_lines_is_cut_and_counted():
    said = run('os.write(2, b"some words\\n" * 5000)', stderr=subprocess.PIPE).stderr
    lines = said.splitlines()
    assert 50 <= len(lines) <= 200 and "more lines of libraries were left out" in lines[-1]


def test_a_full_pipe_that_nobody_reads_neither_stops_the_writer_nor_the_end():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    try:
        assert run('[os.write(2, b"some words\\n" * 1000) for _ in range(100)]', stderr=writing).returncode == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_what_python_says_of_a_crash_is_on_the_earlier_standard_error():
    done = run("os.abort()", stderr=subprocess.PIPE)
    assert done.returncode < 0 and "Fatal Python error: Aborted" in done.stderr


def test_the_soft_limit_of_descriptors_becomes_the_hard_one():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(7)[1]));"
    script += "from servable.host.own_process import raise_descriptor_limit; raise_descriptor_limit();"
    script += "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert int(done.stdout) == hard
