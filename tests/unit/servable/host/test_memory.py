"""What was freed in pieces goes back to the system."""

import asyncio
import ctypes
import multiprocessing
import resource
import threading
from concurrent.futures import ProcessPoolExecutor

from servable.host.memory import give_back_memory, keep_memory, resident_bytes

MB = 1024 * 1024
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.free.argtypes = [ctypes.c_void_p]


def _measured():
    async def run():
        keeping = asyncio.create_task(give_back_memory(interval_s=0.02, pause_s=0.1))
        await asyncio.sleep(0)  # it has seen what there is
        before = resident_bytes()
        pieces = [LIBC.malloc(8000) for _ in range(10_000)]
        for piece in pieces:
            ctypes.memset(piece, 1, 8000)
        grown = resident_bytes() - before
        for index, piece in enumerate(pieces):
            if index % 100:
                LIBC.free(piece)
        kept = resident_bytes() - before
        for _ in range(200):
            await asyncio.sleep(0.02)
            if resident_bytes() - before < 20 * MB:
                break
        keeping.cancel()
        return grown, kept, resident_bytes() - before

    return asyncio.run(run())


def test_memory_between_pieces_that_stay_in_use_is_given_back():
    """In a process of its own: another test's memory would be used again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        grown, kept, left = pool.submit(_measured).result(30)
    assert grown > 70 * MB and kept > 60 * MB  # without help it stays
    assert left < 20 * MB


def _faults_a_call(kept):
    """Of the pages of three copies of a body of 32 images of pixels."""
    if kept:
        keep_memory()

    def call():
        copies = [b"\1" * (32 * 150_528) for _ in range(3)]
        assert len(copies) == 3

    for _ in range(3):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10


def test_the_next_call_gets_the_memory_of_the_one_before():
    """In processes of their own: what is set holds for the whole of one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        without = pool.submit(_faults_a_call, False).result(30)
        kept = pool.submit(_faults_a_call, True).result(30)
    assert kept < 100 < without


def _left_by_a_thread():
    keep_memory()
    before = resident_bytes()

    def call():
        pieces = [b"\1" * MB for _ in range(100)]
        assert len(pieces) == 100

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    kept = resident_bytes() - before
    LIBC.malloc_trim(0)
    return kept, resident_bytes() - before


def test_what_a_thread_has_freed_can_be_given_back_as_well():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        kept, left = pool.submit(_left_by_a_thread).result(30)
    assert kept > 30 * MB > 10 * MB > left
