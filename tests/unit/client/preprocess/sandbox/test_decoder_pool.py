"""Decoders in processes of their own: whatever a file does there is that file's error, and nobody else's."""

import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from metric_learn_client.preprocess import DecodeLimits, ImageError, preprocess
from metric_learn_client.preprocess.sandbox.decoder_pool import CODES, DecoderPool, DecodersUnavailable
from metric_learn_client.preprocess.sandbox.decoder_process import LENGTH, NUMBER, DecoderSettings, read_reply
from tests.unit.client.preprocess.mutations import mutations

REPOSITORY = Path(__file__).parents[5]
IMAGES = REPOSITORY / "tests" / "golden" / "images"
GOOD = [(IMAGES / name).read_bytes() for name in ("cat_tiny_60x40.jpg", "coffee_225x224.bmp", "one_pixel.png")]
PIXELS = [preprocess(image) for image in GOOD]
FUNCTION = "tests.unit.client.preprocess.sandbox.misbehaving_decoder:run"
LIMITS = DecodeLimits(max_image_bytes=1024 * 1024, max_image_px=4_000_000)


@pytest.fixture(scope="module")
def pool():
    with DecoderPool(2, settings=DecoderSettings(LIMITS, FUNCTION)) as made:
        yield made


def order(text):
    return f"!{text}".encode().ljust(200, b"\0")


def error_of(pool, image):
    with pytest.raises(ImageError) as caught:
        pool.submit(image).result(30)
    return str(caught.value)


def assert_right(future, index):
    assert np.array_equal(future.result(30), PIXELS[index])


def nurseries_of(process):
    """This file's: other tests in this process may have children too."""
    found = []
    for child in psutil.Process(process).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that is replaced just now
            if FUNCTION in " ".join(child.cmdline()):
                found.append(child)
    return found


def decoders_of(process):
    return [child for nursery in nurseries_of(process) for child in nursery.children()]


def started_by(pid, before=()):
    """The nursery and the decoders of a pool of two, which may come late: the pool is ready with its first."""
    found = []

    def are_there():
        found[:] = set(psutil.Process(pid).children(recursive=True)) - set(before)
        return len(found) >= 3

    wait_until(are_there)
    return found


def nursery():
    """That of the only pool of two, once it has forked its decoders."""
    found = []

    def is_there():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that is replaced just now
            found[:] = [each for each in nurseries_of(os.getpid()) if len(each.children()) >= 2]
        return len(found) == 1

    wait_until(is_there)
    return found[0]


def busy_decoder():
    """The one that spins."""
    limit = time.monotonic() + 20
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that is replaced just now
            before = [(process, sum(process.cpu_times()[:2])) for process in decoders_of(os.getpid())]
            time.sleep(0.03)
            for process, used in before:
                if sum(process.cpu_times()[:2]) > used:
                    return process
        assert time.monotonic() < limit


def wait_until(condition, timeout_s=20):
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_an_image_that_nobody_waits_for_any_more_harms_no_other(pool):
    futures = [pool.submit(GOOD[0]) for _ in range(50)]
    assert not futures[40].cancel()
    for future in futures:
        assert_right(future, 0)
    assert not pool.failed


def test_a_thousand_pictures_come_back_in_order_with_the_pixels_of_preprocess(pool):
    futures = [pool.submit(GOOD[index % 3]) for index in range(1000)]
    for index, future in enumerate(futures):
        assert_right(future, index % 3)


def test_arrays_are_copied_before_submit_returns(pool):
    images = [np.frombuffer(image, np.uint8).copy() for image in GOOD * 4]
    futures = [pool.submit(image) for image in images]
    for image in images:
        image[:] = 0
    for index, future in enumerate(futures):
        assert_right(future, index % 3)


@pytest.mark.parametrize(("what", "says"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "exit code 7")])
def test_an_image_that_ends_its_decoder_fails_alone_and_at_once(pool, what, says):
    before = pool.restarts
    futures = [pool.submit(image) for image in (GOOD[0], order(what), GOOD[1], GOOD[2])]
    for index, future in zip((0, 1, 2), (futures[0], futures[2], futures[3])):
        assert_right(future, index)
    with pytest.raises(ImageError, match=f"E_CRASH: decoding it ended the decoder: .*{says}"):
        futures[1].result(2)
    assert pool.restarts == before + 1


def test_the_same_file_is_not_tried_again_for_a_while(pool):
    image = order("segfault once")  # too many words: it ends in Python's own way
    before = error_of(pool, order("abort ")), pool.restarts
    assert (error_of(pool, order("abort ")), pool.restarts) == before
    assert error_of(pool, image).startswith("E_DECODE")


def test_of_many_that_wait_the_one_that_ends_its_decoder_fails_and_no_other(pool):
    images = [GOOD[index % 3] for index in range(60)]
    images[17], images[40] = order("segfault   "), order("abort   ")
    futures = [pool.submit(image) for image in images]
    for index, future in enumerate(futures):
        if index in (17, 40):
            assert str(future.exception(20)).startswith("E_CRASH")
        else:
            assert_right(future, index % 3)


def test_an_image_over_its_processor_time_is_ended_and_nobody_waits_for_it(pool):
    began = time.monotonic()
    futures = [pool.submit(order(f"spin 100{number}")) for number in range(2)]
    quick = pool.submit(GOOD[0])
    assert_right(quick, 0)
    assert not any(future.done() for future in futures)
    for future in futures:
        with pytest.raises(ImageError, match=r"E_CRASH: .*more processor time than its pixels allow"):
            future.result(20)
    assert time.monotonic() - began < 10


def test_an_image_over_its_memory_fails_by_that_name(pool):
    before = pool.restarts
    assert error_of(pool, order("fill")) == "E_CRASH: decoding it took more memory than an image may"
    assert_right(pool.submit(GOOD[0]), 0)
    assert pool.restarts == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_image_whose_decoder_is_ended_or_stopped_from_outside_is_tried_again(pool, number):
    future = pool.submit(order("spin 0.6"))
    busy_decoder().send_signal(number)
    assert np.all(future.result(20) == 7)
    assert_right(pool.submit(GOOD[0]), 0)


def test_a_nursery_that_is_killed_is_started_again_and_nothing_is_lost(pool):
    killed = nursery()
    futures = [pool.submit(order("spin 0.3")), *(pool.submit(image) for image in GOOD)]
    killed.kill()
    futures += [pool.submit(image) for image in GOOD]
    assert np.all(futures[0].result(20) == 7)
    for index, future in enumerate(futures[1:]):
        assert_right(future, index % 3)


def test_a_nursery_that_is_told_to_end_is_reaped_at_once_and_started_again_later(pool):
    """As MindSpore Serving does when it stops: its worker waits until it has no child."""
    told = nursery()
    told.send_signal(signal.SIGINT)
    wait_until(lambda: not told.is_running())
    assert not nurseries_of(os.getpid())
    assert_right(pool.submit(GOOD[0]), 0)


def test_a_nursery_that_is_stopped_is_replaced_once_it_is_needed(pool):
    stopped = nursery()
    stopped.suspend()
    assert error_of(pool, order("segfault  ")).startswith("E_CRASH")  # a decoder that nobody can replace
    for index in range(6):
        assert_right(pool.submit(GOOD[index % 3]), index % 3)
    wait_until(lambda: not stopped.is_running())


@pytest.mark.parametrize("packet", [b"", NUMBER.pack(5), NUMBER.pack(5) + LENGTH.pack(9) + b"E_DECODE", b"x" * 900])
def test_a_reply_that_is_none_is_told(packet):
    with pytest.raises(ValueError, match=r"^a reply "):
        read_reply(packet, 5, 1, CODES)


def test_a_reply_with_a_code_of_its_own_is_told():
    with pytest.raises(ValueError, match="code"):
        read_reply(NUMBER.pack(5) + LENGTH.pack(10) + b"E_OTHER: x", 5, 1, CODES)


@pytest.mark.parametrize("what", ["short", "other", "long", "code"])
def test_a_decoder_that_answers_nonsense_is_replaced(pool, what):
    before = pool.restarts
    assert error_of(pool, order(f"answer {what}")).startswith("E_CRASH: its decoder answered nonsense")
    assert_right(pool.submit(GOOD[0]), 0)
    wait_until(lambda: pool.restarts > before)


def test_what_a_decoder_says_is_cleaned(pool):
    text = error_of(pool, order("say " + b"\x1b[2Jx\n\ry".hex()))
    assert text.isprintable() and text.endswith("y") and "[2Jx" in text


def test_sizes_are_refused_without_a_decoder(pool):
    assert error_of(pool, b"").startswith("E_EMPTY")
    assert error_of(pool, bytes(LIMITS.max_image_bytes + 1)).startswith("E_TOO_LARGE")


ATTEMPTS = {
    "open": "/etc/passwd",
    "write": "/tmp/metric-learn-decoder-test",
    "connect": "/nowhere",
    "fork": "",
    "thread": "",
    "signal": str(os.getpid()),
    "trace": str(os.getpid()),
    "root": "",
}


@pytest.mark.parametrize("what", [*ATTEMPTS, "exec", "code"])
def test_a_decoder_can_do_nothing_but_decode(pool, what):
    if "seccomp" not in pool.in_force:
        pytest.skip("no system call filter on this host")
    target = {"exec": shutil.which("true")}.get(what, ATTEMPTS.get(what, ""))
    text = error_of(pool, order(f"attempt {what} {target}"))
    assert text.startswith("E_DECODE: refused"), text


@pytest.fixture(scope="module")
def unfiltered():
    with DecoderPool(1, settings=DecoderSettings(LIMITS, FUNCTION, seccomp=False)) as made:
        yield made


@pytest.mark.parametrize("what", ATTEMPTS)
def test_most_of_it_is_refused_without_the_filter_too(unfiltered, what):
    assert "seccomp" not in unfiltered.in_force
    if what in ("signal", "trace", "fork", "thread") and "user nobody" not in unfiltered.in_force:
        pytest.skip("a process of the same user: only the filter keeps them apart, and root from forking")
    text = error_of(unfiltered, order(f"attempt {what} {ATTEMPTS[what]}"))
    assert text.startswith("E_DECODE: refused"), text


def test_a_pool_that_is_closed_leaves_no_process_and_fails_what_waits():
    before = set(psutil.Process().children(recursive=True))
    pool = DecoderPool(2, settings=DecoderSettings(LIMITS, FUNCTION))
    futures = [pool.submit(order(f"spin 50{number}")) for number in range(4)]
    mine = started_by(os.getpid(), before)
    pool.close()
    for future in futures:
        with pytest.raises(RuntimeError, match="closed"):
            future.result(5)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(GOOD[0]).result()
    assert not psutil.wait_procs(mine, 10)[1]


def test_no_process_outlives_a_caller_that_is_killed():
    program = (
        "import sys, json\nfrom metric_learn_client.preprocess.sandbox.decoder_pool import DecoderPool\n"
        "from metric_learn_client.preprocess.sandbox.decoder_process import DecoderSettings\n"
        "pool = DecoderPool(2, settings=DecoderSettings(function=sys.argv[1]))\n"
        "pool.submit(b'!spin 30')\nprint(flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, FUNCTION]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        caller.stdout.readline()
        started = started_by(caller.pid)
        caller.kill()
    assert not psutil.wait_procs(started, 10)[1]


def test_a_forked_child_has_a_pool_of_its_own():
    program = (
        "import os, sys\nfrom metric_learn_client.preprocess import DecodeLimits\n"
        "from metric_learn_client.preprocess.sandbox.shared_pool import shared_pool\n"
        "image = open(sys.argv[1], 'rb').read()\n"
        "mine = shared_pool(DecodeLimits()).submit(image).result().sum()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if shared_pool(DecodeLimits()).submit(image).result().sum() == mine else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert shared_pool(DecodeLimits()).submit(image).result().sum() == mine\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, IMAGES / "coffee.webp"], check=True, timeout=60)


def test_a_host_that_cannot_start_decoders_says_so():
    with pytest.raises(DecodersUnavailable):
        DecoderPool(1, settings=DecoderSettings(LIMITS, "tests.unit.client.no_such_module:run"))


def test_secrets_in_the_environment_do_not_reach_a_decoder(monkeypatch):
    monkeypatch.setenv("METRIC_LEARN_TOKEN", "secret")
    with DecoderPool(1, LIMITS):
        for process in psutil.Process().children(recursive=True):
            if process.username() == psutil.Process().username() or os.geteuid() == 0:
                assert "secret" not in json.dumps(process.environ())


def fuzz(seed, count):
    """Each mutation twice through decoders: the same pixels or the same error, and no decoder ends."""
    with DecoderPool(2) as pool:
        codes = set()
        given = mutations(seed, count)
        while True:
            some = [(name, pool.submit(data), pool.submit(data)) for name, data in itertools.islice(given, 200)]
            if not some:
                break
            for name, first, second in some:
                error, again = first.exception(60), second.exception(60)
                assert str(error) == str(again), name
                assert error or np.array_equal(first.result(), second.result()), name
                codes.add(getattr(error, "code", "read"))
        assert pool.restarts == 0
    assert {"E_DECODE", "E_TOO_LARGE", "E_UNSUPPORTED", "read"} <= codes and "E_CRASH" not in codes


def test_three_thousand_mutations_are_read_the_same_twice_or_refused_in_decoders():
    fuzz(7, 3000)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 104))
def test_a_hundred_thousand_mutations_are_read_the_same_twice_or_refused_in_decoders(seed):
    fuzz(seed, 25_000)


def largest_pictures():
    """Valid pictures of 7071 x 7071 pixels, of the kinds that take the most memory and time; see MEMORY_PER_PX."""
    pillow = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(1).integers(0, 256, (884, 884, 3), np.uint8)
    photo = cv2.GaussianBlur(np.tile(noise, (8, 8, 1))[:7071, :7071], (0, 0), 2)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 98]
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    yield cv2.imencode(".jpg", photo, [*progressive, *full])[1].tobytes()
    cmyk = io.BytesIO()
    pillow.fromarray(photo).convert("CMYK").save(cmyk, "JPEG", quality=90, progressive=True)
    yield cmyk.getvalue()
    yield cv2.imencode(".webp", photo, [cv2.IMWRITE_WEBP_QUALITY, 70])[1].tobytes()
    deep = np.tile(np.arange(7071, dtype=np.uint16)[:, None, None] * 9, (1, 7071, 4))
    yield cv2.imencode(".png", deep)[1].tobytes()


@pytest.mark.long
def test_the_largest_pictures_of_every_kind_stay_within_the_limits_of_a_decoder():
    with DecoderPool(1) as pool:
        for image in largest_pictures():
            assert np.array_equal(pool.submit(image).result(), preprocess(image))
