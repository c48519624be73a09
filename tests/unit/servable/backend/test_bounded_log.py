"""MindSpore Serving's output: whole lines kept, never more bytes than allowed, never a blocked writer."""

import os
import time

from servable.backend.bounded_log import BoundedLog, Carrier


def test_a_flood_keeps_the_newest_within_the_bound(tmp_path):
    log = BoundedLog(tmp_path / "serving.log", 10_000)
    for number in range(1000):
        log.write(f"line {number:04d} {'x' * 90}\n".encode())
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2 and sum(sizes) <= 10_000
    assert (tmp_path / "serving.log").read_text().splitlines()[-1].startswith("line 0999")


def test_one_block_larger_than_the_bound_is_cut_to_its_end(tmp_path):
    log = BoundedLog(tmp_path / "serving.log", 1000)
    log.write(b"a" * 5000 + b"the end")
    log.close()
    data = (tmp_path / "serving.log").read_bytes()
    assert len(data) <= 500 and data.endswith(b"the end")


def test_an_earlier_servers_log_is_continued(tmp_path):
    for text in (b"first\n", b"second\n"):
        log = BoundedLog(tmp_path / "serving.log", 1000)
        log.write(text)
        log.close()
    assert (tmp_path / "serving.log").read_bytes() == b"first\nsecond\n"


def test_a_log_that_cannot_be_written_does_not_stop_the_writer(tmp_path):
    reading, writing = os.pipe()
    carrier = Carrier(reading, BoundedLog(tmp_path / "missing" / "serving.log", 1000))
    for _ in range(100):
        os.write(writing, b"y" * 4096)  # more than a pipe holds: blocks for ever unless somebody reads
    os.close(writing)
    carrier.finish(10)
    assert not (tmp_path / "missing").exists()


def test_the_last_line_that_names_an_error_is_remembered(tmp_path):
    reading, writing = os.pipe()
    log = BoundedLog(tmp_path / "serving.log", 1000)
    carrier = Carrier(reading, log)
    os.write(writing, b"Traceback\nRuntimeError: no such device\nbye\n")
    os.close(writing)
    carrier.finish(10)
    log.close()
    assert carrier.why() == "RuntimeError: no such device"


def test_an_exception_says_more_than_what_is_logged_after_it(tmp_path):
    reading, writing = os.pipe()
    log = BoundedLog(tmp_path / "serving.log", 10_000)
    carrier = Carrier(reading, log)
    os.write(writing, b"DeviceError: a run failed: device 1 is taken out\n" + b"[ERROR] SERVING worker exited\n" * 50)
    os.close(writing)
    carrier.finish(10)
    log.close()
    assert carrier.why() == "DeviceError: a run failed: device 1 is taken out"


def test_an_error_that_arrives_in_pieces_is_remembered_whole(tmp_path):
    reading, writing = os.pipe()
    log = BoundedLog(tmp_path / "serving.log", 1000)
    carrier = Carrier(reading, log)
    written = b""
    for piece in (b"RuntimeError", b": no such dev", b"ice"):  # as a traceback is written; the last line has no end
        os.write(writing, piece)
        written += piece
        limit = time.monotonic() + 10
        while not log.path.exists() or log.path.stat().st_size < len(written):  # it was read on its own
            assert time.monotonic() < limit
    os.close(writing)
    carrier.finish(10)
    log.close()
    assert carrier.why() == "RuntimeError: no such device"
