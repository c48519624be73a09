"""How many queued images go through which MindIR. Pure arithmetic; no MindSpore import."""

from __future__ import annotations

from functools import cache


@cache
def plan(count: int, sizes: tuple[int, ...], overhead_images: float) -> tuple[int, ...]:
    """Runs for `count` images: a tuple of batch sizes whose sum is >= count, with the least estimated cost.

    A run of size B costs B + overhead_images, in units of one image: a small overhead (CPU, where time grows with
    the batch) avoids padding, a large one (a device that is quick per image and slow per call) prefers one padded
    run. Among equal costs the fewest runs win. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    best: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 0, ())]
    for images in range(1, count + 1):
        options = []
        for size in sizes:
            cost, runs, rest = best[max(0, images - size)]
            options.append((cost + size + overhead_images, runs + 1, (size, *rest)))
        best.append(min(options, key=lambda option: option[:2]))
    return tuple(sorted(best[count][2], reverse=True))
