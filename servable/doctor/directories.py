"""The private run directory, and the servable's own code."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from metric_learn_client import wire
from servable.config.addresses import MAX_UNIX_PATH_BYTES
from servable.config.problem import CONFIGURATION, NOT_READY, Problem, wrong
from servable.config.sections import REPOSITORY, Config
from servable.host import run_directory

LONGEST_SOCKET = "/serving-999999-9999/grpc.sock"  # servable/backend/launcher.py
FREE_BYTES = 64 * 1024 * 1024  # logs and sockets; the MindIRs are linked, not copied
RUN_DIR = "server.run_dir"
LOCK = "lock"  # in it: a server holds it as long as it runs


def directory_problems(config: Config) -> Iterator[Problem]:
    yield from _run_dir(config)
    yield from _code()


def _run_dir(config: Config) -> Iterator[Problem]:
    given = config.server.run_dir
    if not given.is_absolute():
        yield wrong(config, RUN_DIR, "is relative, and services start anywhere", "give an absolute path")
        return
    path = run_directory.locate(given)
    if any(character.isspace() for character in str(path)):
        yield wrong(config, RUN_DIR, "MindSpore Serving splits its command at spaces", "choose a path without them")
    length = len(str(path).encode() + LONGEST_SOCKET.encode())
    if length > MAX_UNIX_PATH_BYTES:
        too_long = length - MAX_UNIX_PATH_BYTES
        yield wrong(config, RUN_DIR, f"is {too_long} bytes too long for the unix sockets in it", "choose a shorter one")
    try:
        directory = run_directory.open_private(path)
    except (FileNotFoundError, NotADirectoryError):  # the second: a file among its parents
        yield from _to_be_made(config, path)
    except run_directory.NotPrivateError as error:
        yield wrong(config, RUN_DIR, error.what, error.remedy)
    except OSError as error:
        yield wrong(config, RUN_DIR, f"cannot be opened ({error.strerror})", "choose another")
    else:
        held = _held(directory)
        os.close(directory)
        if held:
            yield taken(config)
        elif os.access(path, os.W_OK | os.X_OK):
            yield from _space(config, path)
        else:
            yield wrong(config, RUN_DIR, "is not writable", "choose another")


def taken(config: Config) -> Problem:
    return wrong(config, RUN_DIR, "another server runs in it", "stop it, or choose another", exit_code=NOT_READY)


def _held(directory: int) -> bool:
    try:
        lock = os.open(LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:  # nobody has made it yet
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _to_be_made(config: Config, path: Path) -> Iterator[Problem]:
    parent = next(place for place in path.parents if place.exists())
    if not parent.is_dir():
        yield wrong(config, RUN_DIR, f"{parent} is not a directory", "choose another")
    elif not os.access(parent, os.W_OK | os.X_OK):
        yield wrong(config, RUN_DIR, f"{parent} is not writable for this user", "create it, or choose another")
    else:
        yield from _space(config, parent)


def _space(config: Config, place: Path) -> Iterator[Problem]:
    free = shutil.disk_usage(place).free
    if free < FREE_BYTES:
        what = f"{place} has {free // 2**20} MB free, and {FREE_BYTES // 2**20} MB are needed"
        yield wrong(config, RUN_DIR, what, "free space, or choose another", exit_code=NOT_READY)


def _code() -> Iterator[Problem]:
    """The stages are copied from here; a link would serve code from elsewhere, unseen."""
    folder = REPOSITORY / "servable" / wire.SERVABLE_NAME
    for path in (folder, folder / "servable_config.py", folder / "stages.py"):
        if path.is_symlink():
            yield Problem(
                f"{path}: is a symbolic link, and MindSpore Serving takes the servable's name from where it points; "
                "put the real directory there",
                CONFIGURATION,
            )
        elif not path.exists():
            yield Problem(f"{path}: is missing; restore the checkout", CONFIGURATION)
            return
