"""The interpreter and the packages in it."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from metric_learn_client import wire
from servable.config.problem import NOT_READY, Problem
from servable.config.sections import REPOSITORY

SERVING = "2.0.2"
AGAIN = "run `make server-env`"


def interpreter_problems() -> Iterator[Problem]:
    if " " in sys.executable:
        yield Problem(
            f"Python {sys.executable}: MindSpore Serving splits its command at spaces; move the checkout to a path "
            "without them",
            NOT_READY,
        )
    yield from _libpython()
    yield from _serving()
    yield from _shadows()


def _libpython() -> Iterator[Problem]:
    """MindSpore Serving's module is linked against the shared library; a static build cannot load it."""
    name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return
    places = [sysconfig.get_config_var("LIBDIR"), *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    if not any(place and Path(place, name).exists() for place in places):
        yield Problem(
            f"Python {sys.executable}: a static build without {name}, which MindSpore Serving loads; build it with "
            f"--enable-shared, or name another with PYTHON39, then {AGAIN}",
            NOT_READY,
        )


def _serving() -> Iterator[Problem]:
    try:
        version = importlib.metadata.version("mindspore-serving")
    except importlib.metadata.PackageNotFoundError:
        yield Problem(f"Python {sys.executable}: mindspore-serving is not installed; {AGAIN}", NOT_READY)
        return
    if version != SERVING:
        yield Problem(f"mindspore-serving {version}: this server is made for {SERVING}; {AGAIN}", NOT_READY)


def _shadows() -> Iterator[Problem]:
    """MindSpore Serving appends the servable's directory to sys.path: any package of the same name comes first."""
    for place in dict.fromkeys([*(entry or os.getcwd() for entry in sys.path), *_python_path()]):
        if Path(place) == REPOSITORY / "servable":
            continue
        for candidate in (Path(place, wire.SERVABLE_NAME), Path(place, f"{wire.SERVABLE_NAME}.py")):
            if candidate.is_file() or (candidate / "__init__.py").is_file():
                yield Problem(
                    f"{candidate}: shadows the servable {wire.SERVABLE_NAME}, so that MindSpore Serving would import "
                    "it instead; uninstall it (PyPI calls it metric-learn) or take it off PYTHONPATH",
                    NOT_READY,
                )
                return


def _python_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(":") if entry]
