"""What was freed in pieces goes back to the system."""

import asyncio
import ctypes
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from servable.host.memory import give_back_memory, resident_bytes

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
