"""Processes that may import kserve, which none can beside tritonclient: both register the same messages."""

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def called(module, name, arguments, options):
    return getattr(importlib.import_module(module), name)(*arguments, **options)


class Child:
    def __init__(self, most):
        self._most = most
        self._pool = None

    def __call__(self, module, name, *arguments, **options):
        """The future of that function's result."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._most, mp_context=context)
        return self._pool.submit(called, f"tests.e2e.wires.{module}", name, arguments, options)

    def close(self):
        if self._pool is not None:
            self._pool.shutdown()
