"""What the libraries of this host's CANN say, asked in a process of its own: they may end the one that loads them.

Everything is asked in the environment that the server's MindSpore Serving will get. Standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Optional

from servable.runtime.cann import Cann
from servable.runtime.child_environment import child_environment
from servable.runtime.lite_runtime import SERVING_NAME, lite_directory

LOAD_S = 120.0
DEVICE_S = 60.0  # for one device to be opened: its first use after the driver was loaded takes seconds
# MindSpore Lite, and the three of its libraries that are linked to CANN's, in the order of their needs.
LOADED = (SERVING_NAME, "libmslite_shared_lib.so", "libascend_pass_plugin.so", "libascend_kernel_plugin.so")
IMPORTED = ("te", "tbe")  # by CANN's operator compiler, inside the worker's interpreter
# Families of chips that the product knows, by the chips' names. An offline model of one cannot run on another.
FAMILIES = {
    "ascend310": r"Ascend310$",
    "ascend310p": r"Ascend310P\d*$",
    "ascend910": r"Ascend910(?!B\d|_)\w*$",
}
# One JSON line for each step: a step that ends the interpreter is the first that is missing.
_STEP = """
import ctypes, importlib, json, sys
def step(name, work):
    try: result = work()
    except BaseException as error: print(json.dumps([name, type(error).__name__ + ": " + str(error), None]), flush=True)
    else: print(json.dumps([name, "", result]), flush=True)
"""
_HOST = f"""{_STEP}
def load(name):
    ctypes.CDLL(sys.argv[1] + "/" + name, ctypes.RTLD_GLOBAL)
def chip():
    ask = ctypes.CDLL("libascendcl.so").aclrtGetSocName
    ask.restype = ctypes.c_char_p
    return (ask() or b"").decode()
step("chip", chip)
for name in {LOADED!r}: step(name, lambda: load(name))
for name in {IMPORTED!r}: step(name, lambda: importlib.import_module(name) and None)
"""
_DEVICE = f"""{_STEP}
def opened():
    runtime = ctypes.CDLL("libascendcl.so")
    for call, arguments in (("aclInit", [None]), ("aclrtSetDevice", [int(sys.argv[1])])):
        code = getattr(runtime, call)(*arguments)
        if code: raise OSError(call + " gives error " + str(code))
step("opened", opened)
"""
Steps = dict[str, tuple[str, Optional[str]]]  # name -> (error or nothing, result)


@cache
def probe(python: Path, cann: Cann) -> Steps:
    """The chip's name, whether each of LOADED can be loaded, whether each of IMPORTED can be imported.

    python: MindSpore Serving's, as below. Raises OSError where it cannot be run.
    """
    return _ask(_run(python, _HOST, str(lite_directory()), cann), LOAD_S)


def chip_name(python: Path, cann: Cann) -> str:
    """Such as "Ascend310P3"; nothing where the runtime cannot tell."""
    return str(probe(python, cann).get("chip", ("", ""))[1] or "")


def family_of(chip: str) -> str:
    """Nothing for a chip of none."""
    return next((family for family, names in FAMILIES.items() if re.match(names, chip)), "")


def target_of(chip: str) -> str:
    """backend.target for it, which counts the 310P among the 310; nothing for a chip of no family."""
    family = family_of(chip)
    return "ascend310" if family == "ascend310p" else family


def dead_devices(python: Path, cann: Cann, devices: Sequence[int]) -> dict[int, str]:
    """Those that cannot be opened, each with the reason."""
    asked = {device: _run(python, _DEVICE, str(device), cann) for device in devices}  # all at once
    limit, dead = time.monotonic() + DEVICE_S, {}
    for device, process in asked.items():
        error, _ = _ask(process, max(0.0, limit - time.monotonic())).get(
            "opened", ("it does not come back, or ends the process", None)
        )
        if error:
            dead[device] = error.partition(": ")[2] or error
    return dead


def _run(python: Path, program: str, argument: str, cann: Cann) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(python), "-c", program, argument],
        env=child_environment(lite_directory(), cann),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )


def _ask(process: subprocess.Popen[str], limit_s: float) -> Steps:
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    steps = {}
    for line in output.splitlines():
        if line.startswith('["'):  # CANN's libraries print what they like
            name, problem, result = json.loads(line)
            steps[name] = (problem, result)
    return steps
