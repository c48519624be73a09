"""Bounds in seconds that hold beside other work: four busy processes on two cores take twice as long each."""

import os


def patient(seconds):
    """seconds: a generous bound on a machine with nothing else to do. What it is now, by the last minute's load."""
    return seconds * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
