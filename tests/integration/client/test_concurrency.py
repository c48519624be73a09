"""Threads, forks, tasks, and what they must not leave behind."""

import asyncio
import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from metric_learn_client import AsyncEmbeddingClient, EmbeddingClient
from metric_learn_client.testing import FakeServable, Faults, fake_embeddings

from .conftest import fake_process, resident_mb

IMAGES = [b"image %d" % number for number in range(1000)]
ROWS = fake_embeddings(IMAGES)
M_ARENA_MAX = -8  # mallopt(3)


def test_sixty_four_threads_share_one_client(fake, no_thread_left):
    failures = []
    with EmbeddingClient(fake.endpoint, deadline_s=120, batch_size=100) as client:

        def work(number):
            try:
                order = np.random.default_rng(number).permutation(1000)
                if not (client.embed([IMAGES[index] for index in order]).embeddings == ROWS[order]).all():
                    failures.append(f"thread {number}: a row is not its own")
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert not failures and not any(thread.is_alive() for thread in threads)
        assert fake.images == 64_000 and fake.peak_in_flight <= 8
    fake.stop()


def child(client, results):
    try:
        results.put(bool((client.embed(IMAGES).embeddings == ROWS).all()))
    except Exception as error:
        results.put(repr(error))
    client.close()


def test_eight_forked_children_use_the_parents_client():
    """Each has a channel of its own; the parent's goes on working. The server is another process: it must not fork."""
    context = multiprocessing.get_context("fork")
    with fake_process() as (endpoint, _), EmbeddingClient(endpoint, deadline_s=60, batch_size=100) as client:
        assert (client.embed(IMAGES).embeddings == ROWS).all()
        results = context.SimpleQueue()
        children = [context.Process(target=child, args=(client, results)) for _ in range(8)]
        for process in children:
            process.start()
        assert (client.embed(IMAGES).embeddings == ROWS).all()
        assert [results.get() for _ in children] == [True] * 8
        for process in children:
            process.join(30)
        assert [process.exitcode for process in children] == [0] * 8
        assert (client.embed(IMAGES).embeddings == ROWS).all()


def test_a_child_forked_right_after_a_close_can_use_a_client_of_its_own():
    """gRPC shuts down behind the close of the last channel; without care a fork in the middle of it hangs the child."""
    script = (
        "import os, sys\n"
        "from metric_learn_client import EmbeddingClient\n"
        "unused = EmbeddingClient(sys.argv[1], deadline_s=20)\n"
        "for _ in range(8):\n"
        "    with EmbeddingClient(sys.argv[1], deadline_s=20) as used:\n"
        "        used.embed([b'a'] * 200)\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        unused.embed([b'a'])\n"
        "        os._exit(7)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
        "print('fine')\n"
    )
    with fake_process() as (endpoint, _):
        process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                script,
                endpoint,
            ],  # 3.12: of any fork in threads
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.communicate(timeout=60) == ("fine\n", "")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a child that hangs, too
            process.wait()


def test_a_cancelled_task_ends_its_call_at_the_server(fake):
    async def main():
        async with AsyncEmbeddingClient(fake.endpoint, deadline_s=60) as client:
            await client.embed([b"a"])
            fake.faults = Faults(black_hole=True)
            task = asyncio.ensure_future(client.embed([b"a"]))
            await reached(lambda: fake._in_flight == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await reached(lambda: fake._in_flight == 0)

    async def reached(condition):
        limit = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < limit
            await asyncio.sleep(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("ending", ["", "client.close()", "import os; os._exit(0)", "raise SystemExit(0)"])
def test_a_program_ends_quietly_however_it_leaves_its_client(ending):
    script = (
        "import sys\n"
        "from metric_learn_client import EmbeddingClient\n"
        "client = EmbeddingClient(sys.argv[1])\n"
        "client.embed([b'a'] * 500)\n"
        f"{ending}\n"
    )
    with fake_process() as (endpoint, _):
        done = subprocess.run([sys.executable, "-c", script, endpoint], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("images", [1, 1000])
def test_an_interrupted_program_ends_at_once(images):
    script = (
        "import sys\n"
        "from metric_learn_client import EmbeddingClient\n"
        "client = EmbeddingClient(sys.argv[1], deadline_s=600)\n"
        "client.model()\n"
        f"client.embed([b'a'] * {images})\n"
    )
    with FakeServable(faults=Faults(delay_s=600)) as fake:
        process = subprocess.Popen([sys.executable, "-c", script, fake.endpoint], stderr=subprocess.PIPE, text=True)
        limit = time.monotonic() + 20
        while fake.calls < min(8, images) and time.monotonic() < limit:
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=5)
    assert "KeyboardInterrupt" in stderr and process.returncode != 0


def test_two_hundred_tasks_of_which_half_are_cancelled(fake, no_thread_left):
    fake.faults.delay_s = 0.05

    async def main():
        async with AsyncEmbeddingClient(fake.endpoint, deadline_s=60, batch_size=20) as client:
            await client.embed([b"a"])
            tasks = [asyncio.ensure_future(client.embed(IMAGES[n : n + 50])) for n in range(200)]
            cancelled = tasks[::2]
            for number, task in enumerate(cancelled):
                asyncio.get_running_loop().call_later(0.01 * number, task.cancel)
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            for number, result in enumerate(results):
                if isinstance(result, asyncio.CancelledError):
                    assert number % 2 == 0
                else:
                    assert (result.embeddings == ROWS[number : number + 50]).all()
            assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 50
            assert (await client.embed(IMAGES)).ok.all()  # every place in the window was given back
            assert client._core.window._in_flight == 0 and not client._core.window._queue
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    fake.stop()


def test_an_asynchronous_iterable_is_embedded_in_order(fake):
    async def source():
        for image in IMAGES:
            yield image

    async def main():
        async with AsyncEmbeddingClient(fake.endpoint, deadline_s=20) as client:
            return [row async for row in client.embed_iter(source(), window=100)]

    assert (np.stack(asyncio.run(main())) == ROWS).all()


def test_an_async_client_works_in_one_event_loop_after_another(fake):
    client = AsyncEmbeddingClient(fake.endpoint, deadline_s=20)

    async def once():
        return (await client.embed([b"a"])).embeddings

    for _ in range(3):
        assert (asyncio.run(once()) == fake_embeddings([b"a"])).all()
    asyncio.run(client.close())


def stream_memory(endpoint, count):
    """The most that is held while so many items pass. What is free glibc keeps, in an arena for each thread, and more
    of it on busy cores: here is one arena, and what is free in it is given back before it is measured."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_ARENA_MAX, 1)

    def held_mb():
        libc.malloc_trim(0)
        return resident_mb()

    with EmbeddingClient(endpoint, deadline_s=60) as client:
        for _ in client.embed_iter(b"%d" % number for number in range(20_000)):
            pass
        before = peak = held_mb()
        for given, _ in enumerate(client.embed_iter(b"%d" % number for number in range(count)), 1):
            if given % 10_000 == 0:
                peak = max(peak, held_mb())
        assert given == count
        return peak - before


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_stream_of_so_many_items_is_flat_in_memory(count):
    with fake_process() as (endpoint, _):
        assert in_a_fresh_process(stream_memory, endpoint, count) < 20


def test_ten_thousand_calls_leave_less_than_a_megabyte():
    with fake_process() as (endpoint, _):
        grown, held = in_a_fresh_process(memory_of_calls, endpoint)
    assert grown < 1 and held < 5_000, (grown, held)


def memory_of_calls(endpoint):
    """Resident megabytes that 10,000 calls leave behind, and bytes of Python objects that 1,000 leave."""
    with EmbeddingClient(endpoint, deadline_s=60) as client:

        def call(count):
            for number in range(count):
                client.embed(IMAGES[number % 900 : number % 900 + 2])

        call(2_000)
        gc.collect()
        before = resident_mb()
        call(10_000)
        gc.collect()
        grown = resident_mb() - before
        tracemalloc.start()
        call(100)
        gc.collect()
        start = tracemalloc.get_traced_memory()[0]
        call(1_000)
        gc.collect()
        return grown, tracemalloc.get_traced_memory()[0] - start


def in_a_fresh_process(function, *arguments):
    """What it returns in a process that no other test has used: resident memory is the whole process's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(function, *arguments).result(300)
