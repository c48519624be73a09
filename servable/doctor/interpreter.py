"""The two interpreters: the server's own, and MindSpore Serving's with the packages in it.

MindSpore Serving's is asked itself, in the environment that it will get: its version, how it was built, what it finds.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from metric_learn_client import __version__ as CLIENT_VERSION
from metric_learn_client import contract
from servable.config.problem import NOT_READY, Problem, wrong
from servable.config.sections import REPOSITORY, Config
from servable.runtime.child_environment import child_environment
from servable.runtime.engine_python import engine_python
from servable.runtime.lite_runtime import lite_directory

SERVING = "2.0.2"
PYTHON = (3, 9)  # the newest that MindSpore Serving 2.0.2 exists for
LEAST = (3, 9, 2)
LAST_RESORT = (3, 9)  # of the server itself: without security fixes since October 2025
KEY = "backend.engine_python"
AGAIN = "run `make engine-env`"
ANSWER_S = 30.0
# What master, workers and stages import; its folder's name, which need not be the package's.
PACKAGES = ("numpy", "psutil", "packaging", "cv2", "simplejpeg", "metric_learn_client")
# One JSON line. The first question is put so that every Python understands it.
QUESTIONS = f"""
import sys, json
answers = {{"version": sys.version_info[:3]}}
if sys.version_info[:2] == {PYTHON!r}:
    import importlib.metadata, importlib.util, sysconfig
    def version(name):
        try: return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError: return None
    answers["shared"] = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    answers["libraries"] = sysconfig.get_config_var("LIBDIR")
    answers["serving"] = version("mindspore-serving")
    answers["missing"] = [name for name in {PACKAGES!r} if importlib.util.find_spec(name) is None]
    answers["path"] = [entry for entry in sys.path if entry]
    if "metric_learn_client" not in answers["missing"]:
        answers["client"] = __import__("metric_learn_client").__version__
print(json.dumps(answers))
"""


def interpreter_warnings() -> tuple[str, ...]:
    """What an operator should know of the server's own."""
    if sys.version_info[:2] > LAST_RESORT:
        return ()
    return (
        f"Python {platform.python_version()} ({sys.executable}) gets no security fixes any more, and the public port "
        "runs on it; install a Python from 3.10 to 3.13 and run `make server-env`",
    )


def engine_problems(config: Config) -> Iterator[Problem]:
    """What keeps MindSpore Serving's Python from running it; the first that is found."""
    python = engine_python(config)
    if not os.access(python, os.X_OK) or python.is_dir():
        if config.backend.engine_python is not None:
            yield wrong(config, KEY, "is not a program that can be run", f"{AGAIN} and leave it out, or correct it")
        else:
            yield Problem(f"Python {python}: is not there, and MindSpore Serving needs it; {AGAIN}", NOT_READY)
        return
    if " " in str(python):
        what = "MindSpore Serving splits its command at spaces; move the checkout to a path without them"
        yield Problem(f"Python {python}: {what}", NOT_READY)
        return
    environment = child_environment(lite_directory(), None)
    answers = _ask(python, environment)
    if isinstance(answers, str):
        yield Problem(f"Python {python}: cannot be run ({answers}); {AGAIN}", NOT_READY)
        return
    for what in _wrong_with(answers, environment):
        yield Problem(f"Python {python}: {what}", NOT_READY)
        return


def _ask(python: Path, environment: Mapping[str, str]) -> Any:
    """The answers, or in words why there are none."""
    command = [str(python), "-c", QUESTIONS]
    try:
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=ANSWER_S)
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    except ValueError:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _wrong_with(answers: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    version = tuple(answers["version"])
    if version[:2] != PYTHON or version < LEAST:
        found = ".".join(map(str, version))
        yield f"is {found}, and MindSpore Serving {SERVING} needs 3.9, from 3.9.2 on; {AGAIN} (PYTHON39 names one)"
        return
    # MindSpore Serving's module is linked against the shared library; a static build cannot load it.
    library = "libpython3.9.so.1.0"
    places = [answers["libraries"], *environment.get("LD_LIBRARY_PATH", "").split(":")]
    if not answers["shared"] and not any(place and Path(place, library).exists() for place in places):
        yield (
            f"is a static build without {library}, which MindSpore Serving loads; build it with --enable-shared, or "
            f"name another with PYTHON39, then {AGAIN}"
        )
    if answers["serving"] is None:
        yield f"mindspore-serving is not installed; {AGAIN}"
    elif answers["serving"] != SERVING:
        yield f"holds mindspore-serving {answers['serving']}, and this server is made for {SERVING}; {AGAIN}"
    if answers["missing"]:
        yield f"{', '.join(answers['missing'])} is not installed; {AGAIN}"
    elif answers["client"] != CLIENT_VERSION:
        yield (
            f"holds metric_learn_client {answers['client']}, and the server {CLIENT_VERSION}, which must agree; "
            "run `make engine-env server-env`"
        )
    shadow = _shadow(answers["path"])
    if shadow is not None:
        yield (
            f"finds {shadow}, which shadows the servable {contract.SERVABLE_NAME}, so that MindSpore Serving would "
            "import it instead; uninstall it (PyPI calls it metric-learn) or take it off PYTHONPATH"
        )


def _shadow(path: list[str]) -> Optional[Path]:
    """MindSpore Serving appends the servable's directory to sys.path: any package of the same name comes first."""
    for place in path:
        if Path(place) == REPOSITORY / "servable":
            continue
        for candidate in (Path(place, contract.SERVABLE_NAME), Path(place, f"{contract.SERVABLE_NAME}.py")):
            if candidate.is_file() or (candidate / "__init__.py").is_file():
                return candidate
    return None
