"""A file that opens doors (certificate, key, CA, tokens): read whole, kept from strangers, and seen when it changes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from servable.config.problem import CONFIGURATION, NOT_READY, wrong
from servable.config.sections import Config
from servable.gateway.errors import StartError

OPEN_BITS = 0o007  # everybody on this host may read, write or run it
Stamp = tuple[Optional[tuple[int, int, int, int]], ...]


def read_credential(config: Config, key: str, *, secret: bool = False) -> bytes:
    """What the file that `key` names holds. Raises StartError: not readable, or a secret that everybody can read."""
    path = path_of(config, key)
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        code = NOT_READY if isinstance(error, PermissionError) else CONFIGURATION
        what, remedy = os.strerror(error.errno or 0), "give a file that this user can read"
        raise StartError(wrong(config, key, what, remedy, exit_code=code)) from error
    if secret and mode & OPEN_BITS:
        raise StartError(wrong(config, key, "everybody on this host can read it", "run `chmod 640` on it"))
    return data


def path_of(config: Config, key: str) -> Path:
    """The file that `key`, which is set, names."""
    path = getattr(config.security, key.partition(".")[2])
    assert isinstance(path, Path), key
    return path


def stamp_of(paths: Iterable[Optional[Path]]) -> Stamp:
    """Another value whenever one of the files was replaced, written, closed to strangers or taken away."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Optional[Path]) -> Optional[tuple[int, int, int, int]]:
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode)
