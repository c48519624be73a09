"""An Ascend host: the driver, its devices and their rights, CANN, and whether MindSpore Lite can load it.

What is looked at is what the server's MindSpore Serving will meet: the libraries are opened, and the operator
compiler's Python packages imported, in the environment that it will get.
"""

from __future__ import annotations

import grp
import os
import platform
import pwd
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

from servable.config.problem import NOT_READY, Problem, wrong
from servable.config.sections import Config
from servable.runtime.cann import ASCEND, DRIVERS, Cann, find_cann, serving_cann
from servable.runtime.device_probe import IMPORTED, LOADED, chip_name, probe, target_of
from servable.runtime.engine_python import engine_python
from servable.runtime.lite_runtime import SERVING_NAME, lite_directory

DEVICES = Path("/dev")
MANAGERS = ("davinci_manager", "devmm_svm", "hisi_hdc")  # of the driver; every process that uses a device opens them
BUILT_FOR = "6.3"
KNOWN = (BUILT_FOR, "6.11")  # as MindSpore 2.0.0's check of CANN's version: 6.11 is 6.3's number before the release
WITHOUT_310 = (8, 5)  # CANN 8.5's graph compiler no longer names the 310


def ascend_problems(config: Config, *, load: bool) -> Iterator[Problem]:
    """A host without what backend.target asks for is refused; nothing falls back to CPU.

    load: whether MindSpore Serving's Python is fit to be asked.
    """
    if config.backend.target == "cpu":
        return
    cann = find_cann(os.environ)
    missing = list(_missing(config, cann))
    if missing:
        what = f"this host lacks {', '.join(missing)}"
        yield wrong(config, "backend.target", what, "install it, or use configs/cpu.yaml", exit_code=NOT_READY)
        return
    yield from _rights(config)
    assert cann is not None
    problem = _choice(cann)
    if problem:
        yield problem
    elif load and (lite_directory() / SERVING_NAME).is_file():  # else servable.doctor.resources says so
        yield from _loading(config, cann)


def ascend_warnings(config: Config) -> Iterator[str]:
    """What nobody is known to have tried, or may fail while the network is compiled."""
    cann = None if config.backend.target == "cpu" else find_cann(os.environ)
    if cann is None:
        return
    if not cann.version.startswith(KNOWN):
        version = f"CANN {cann.version}" if cann.version else "CANN of unknown version"
        yield f"{version} in {cann.root}: MindSpore Lite 2.0.0 was built for {BUILT_FOR}; no other is known to work"
    home = os.environ.get("HOME") or "/"
    if not os.access(home, os.W_OK):
        yield f"HOME = {home}: it cannot be written, and CANN's compiler keeps there what it makes; set another"


def _missing(config: Config, cann: Optional[Cann]) -> Iterator[str]:
    devices, wanted = list(DEVICES.glob("davinci[0-9]*")), max(config.backend.device_ids, default=0)
    if not any(driver.is_dir() for driver in DRIVERS):
        yield f"the driver ({DRIVERS[0]}; a container gets it from its host)"
    if not devices:
        yield "an Ascend device (/dev/davinci*)"
    elif len(devices) <= wanted:
        # By count: a container's devices are numbered from 0, whatever their files are called.
        yield f"device {wanted} of backend.device_ids (there are {len(devices)} in /dev/davinci*, numbered from 0)"
    if cann is None:
        yield f"CANN {BUILT_FOR} ({ASCEND}/ascend-toolkit/latest or nnae/latest; elsewhere: set ASCEND_HOME_PATH)"
    elif not (cann.root / "lib64").is_dir():
        yield f"CANN where {cann.origin} = {cann.root} says (no lib64 in it; set it to the folder that holds lib64)"
    if not shutil.which("ps"):
        yield "ps (package procps), with which MindSpore Serving ends compilers"


def _rights(config: Config) -> Iterator[Problem]:
    """Of the devices' own nodes, or of all where a container has them under other numbers."""
    own = [DEVICES / f"davinci{device}" for device in config.backend.device_ids]
    if not all(node.exists() for node in own):
        own = sorted(DEVICES.glob("davinci[0-9]*"))
    nodes = own + [DEVICES / name for name in MANAGERS]
    closed = [node for node in nodes if node.exists() and not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        status = closed[0].stat()
        group = _name(status.st_gid, lambda number: grp.getgrgid(number).gr_name)
        user = _name(os.geteuid(), lambda number: pwd.getpwuid(number).pw_name)
        yield Problem(
            f"{', '.join(map(str, closed))}: user {user} may not read and write it (group {group}, mode "
            f"{status.st_mode & 0o777:03o}); give the user that group (systemd: SupplementaryGroups and DeviceAllow; "
            f"Docker: --group-add {status.st_gid}; Kubernetes: supplementalGroups: [{status.st_gid}])",
            NOT_READY,
        )


def _name(number: int, known: Callable[[int], str]) -> str:
    try:
        return f"{known(number)} ({number})"
    except KeyError:  # of the host, in a container
        return str(number)


def _choice(cann: Cann) -> Optional[Problem]:
    """MindSpore Serving adds the first of its own places in front, and half of either is loaded."""
    serving = serving_cann()
    if not cann.origin or serving is None or os.path.realpath(serving) == os.path.realpath(cann.root):
        return None
    return Problem(
        f"{cann.origin} = {cann.root}: MindSpore Serving takes CANN from {serving} where that exists, and the two "
        f"would be mixed; unset {cann.origin} to use {serving}, or move that one away",
        NOT_READY,
    )


def _loading(config: Config, cann: Cann) -> Iterator[Problem]:
    python = engine_python(config)
    steps = probe(python, cann)
    version = cann.version or "(of unknown version)"
    where = f"CANN {version} in {cann.root}"
    chip = chip_name(python, cann)
    if chip and target_of(chip) != config.backend.target:
        yield _chip_problem(config, chip)
        return
    if chip == "Ascend310" and tuple(map(int, re.findall(r"\d+", version)[:2])) >= WITHOUT_310:
        remedy = f"install CANN {BUILT_FOR} (RC1 to RC3)"
        yield wrong(config, "backend.target", f"{where} no longer compiles for a 310", remedy, exit_code=NOT_READY)
        return
    for name in (*LOADED, *IMPORTED):
        error, _ = steps.get(name, ("it ended the interpreter", None))
        if error:
            loading = name in LOADED
            what = _load_problem(where, name, error) if loading else _import_problem(python, where, cann, name, error)
            yield Problem(what, NOT_READY)
            return


def _load_problem(where: str, name: str, error: str) -> str:
    absent = re.search(r"(lib[\w.-]+\.so[\w.]*): cannot open shared object file", error)
    if absent:
        return (
            f"{where}: {absent[1]} is not there, which {name} needs; install toolkit or nnae whole (nnrt is not enough)"
        )
    if "static TLS" in error:
        gomp = f"/usr/lib/{platform.machine()}-linux-gnu/libgomp.so.1"
        return f"{name}: {error}; start the server with LD_PRELOAD={gomp}, or wherever libgomp.so.1 is"
    return f"{where}: MindSpore Lite 2.0.0 cannot load it ({error}); it was built for CANN {BUILT_FOR}: install that"


def _import_problem(python: Path, where: str, cann: Cann, name: str, error: str) -> str:
    absent = re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", error)
    if absent and absent[1].split(".")[0] == name:
        packages = cann.root / "python" / "site-packages"
        return f"{where}: the operator compiler's package {name} is not in {packages}; install toolkit or nnae whole"
    lacks = f"which needs {absent[1]} in {python}" if absent else f"which fails with {error}"
    return f"{where}: the operator compiler imports {name}, {lacks}; run `make engine-env` on this host"


def _chip_problem(config: Config, chip: str) -> Problem:
    fitting = target_of(chip)
    remedy = (
        f"set it to {fitting}"
        if fitting
        else "MindSpore Serving 2.0.2 was made for the 310, the 310P and the 910A alone"
    )
    return wrong(config, "backend.target", f"the device is an {chip}", remedy, exit_code=NOT_READY)
