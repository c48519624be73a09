"""The bearer token: given, or read from a file that may be rewritten while the client lives."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import Optional, Union

from metric_learn_client._client.daemon_threads import in_time

PIPE_S = 10.0  # a pipe that nobody writes to is given up after this
MOST_CHARACTERS = 64 * 1024  # /dev/zero has no end


def fits_header(token: str) -> bool:
    """Whether a header can carry it, as one word."""
    return token.isascii() and token.isprintable() and " " not in token


class TokenSource:
    def __init__(self, token: Optional[str], token_file: Union[str, os.PathLike[str], None]) -> None:
        self._token = token
        self._file = None if token_file is None else os.fspath(token_file)
        self._seen: Optional[tuple[int, int, int]] = None

    def current(self) -> Optional[str]:
        """The token now. Raises ValueError where the file is missing, empty or not one word."""
        if self._file is None:
            return self._token
        try:
            status = os.stat(self._file)
            once = not stat.S_ISREG(status.st_mode)  # the pipe of `--token-file <(...)`
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen and not (once and self._seen):
                token = in_time(partial(_read, self._file), PIPE_S) if once else _read(self._file)
                if not token or not fits_header(token):
                    raise ValueError(f"token_file {self._file}: it must hold one token and nothing else")
                self._token, self._seen = token, seen
        except TimeoutError as error:
            raise ValueError(f"token_file {self._file}: nobody wrote to it within {PIPE_S:g} s") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"token_file {self._file} cannot be read: {error}") from error
        return self._token


def _read(path: str) -> str:
    with open(path, encoding="utf-8-sig") as file:  # Windows' editors put a BOM before it
        return file.read(MOST_CHARACTERS).strip()
