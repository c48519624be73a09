"""The decoder pool of a client's process: made when it is first asked for, shared by all its clients and jobs."""

from __future__ import annotations

import os
import threading

from metric_learn_client.preprocess import DecodeLimits
from metric_learn_client.preprocess.sandbox.decoder_pool import DecoderPool

_shared: dict[DecodeLimits, DecoderPool] = {}
_sharing = threading.Lock()


def shared_pool(limits: DecodeLimits) -> DecoderPool:
    """The pool of this process for these limits, a decoder for each core: made when it is first asked for, it ends with
    the process. Raises DecodersUnavailable."""
    with _sharing:
        pool = _shared.get(limits)
        if pool is None or pool.failed:
            pool = _shared[limits] = DecoderPool(len(os.sched_getaffinity(0)), limits)
        return pool


def _forget_in_child() -> None:
    """A forked child has neither the thread nor the right to the parent's decoders: it makes a pool of its own."""
    global _sharing
    _sharing = threading.Lock()
    for pool in _shared.values():
        pool.abandon()
    _shared.clear()


os.register_at_fork(after_in_child=_forget_in_child)
