"""The bearer token: given, or read from a file that may be rewritten while the client lives."""

from __future__ import annotations

import os
from typing import Optional


class TokenSource:
    def __init__(self, token: Optional[str], token_file: Optional[str]) -> None:
        self._token = token
        self._file = token_file
        self._seen: Optional[tuple[int, int, int]] = None

    def current(self) -> Optional[str]:
        """The token now. Raises ValueError where the file is missing, empty or not one word."""
        if self._file is None:
            return self._token
        try:
            status = os.stat(self._file)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with open(self._file, encoding="utf-8-sig") as file:  # Windows' editors put a BOM before it
                    token = file.read().strip()
                if not token or not token.isascii() or not token.isprintable() or " " in token:
                    raise ValueError(f"token_file {self._file}: it must hold one token and nothing else")
                self._token, self._seen = token, seen
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"token_file {self._file} cannot be read: {error}") from error
        return self._token
