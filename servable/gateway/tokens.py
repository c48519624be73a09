"""Bearer tokens (RFC 6750) from a file: any of them opens the door; a changed file counts within a second."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from pathlib import Path
from typing import Callable, Optional, Union

import grpc

from servable.gateway.errors import CallError
from servable.gateway.tls import SecurityError
from servable.token_file import COMMENT, MIN_TOKEN_CHARACTERS

CHECK_INTERVAL_S = 1.0
_COMMENT = re.compile(COMMENT)
log = logging.getLogger(__name__)


class Tokens:
    """The valid tokens, as digests. Raises SecurityError when the file cannot be used at the start."""

    def __init__(self, path: Path, on_reload: Callable[[bool], None] = lambda ok: None) -> None:
        self._path = path
        self._on_reload = on_reload
        self._looked_at = time.monotonic()
        self._stamp = self._stat()
        self._digests = load_tokens(path)
        self._complaint = ""  # said once, not every second

    def check(self, authorization: Optional[Union[str, bytes]]) -> None:
        """`authorization`: the metadata's value. Raises CallError (UNAUTHENTICATED)."""
        self._reload_if_changed()
        if authorization is None:
            raise _unauthenticated("no token; send metadata 'authorization: Bearer <token>'")
        text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
        scheme, _, token = text.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthenticated("not a bearer token; send metadata 'authorization: Bearer <token>'")
        digest = _digest(token.strip())
        valid = False
        for known in self._digests:  # all of them, so that the time tells nothing about which one fits
            valid |= hmac.compare_digest(known, digest)
        if not valid:
            raise _unauthenticated("the token is not valid here; ask the operator for a current one")

    def _reload_if_changed(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < CHECK_INTERVAL_S:
            return
        self._looked_at = now
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                self._complaint = ""
                return
            self._digests = load_tokens(self._path)
        except SecurityError as error:  # tried again: a lack of descriptors or a half copied file passes
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("tokens not reloaded, the earlier ones stay valid: %s", error)
                self._on_reload(False)
            return
        self._stamp, self._complaint = stamp, ""
        log.info("%d tokens reloaded from %s", len(self._digests), self._path)
        self._on_reload(True)

    def _stat(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def load_tokens(path: Path) -> tuple[bytes, ...]:
    """Digests of the file's tokens: one a line, a word that starts with `#` starts a comment. Raises SecurityError."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise SecurityError(f"{path}: {error.strerror}; auth.tokens_file must name a readable file") from error
    except UnicodeDecodeError as error:
        raise SecurityError(f"{path}: tokens must be ASCII") from error
    digests = []
    for number, line in enumerate(lines, 1):
        token = _COMMENT.sub("", line).strip()
        if not token:
            continue
        if len(token) < MIN_TOKEN_CHARACTERS or " " in token:
            raise SecurityError(
                f"{path}: line {number}: a token is one word of at least {MIN_TOKEN_CHARACTERS} characters; "
                "make one with `openssl rand -hex 32`"
            )
        digests.append(_digest(token))
    if not digests:
        raise SecurityError(f"{path}: holds no token; write one a line, made with `openssl rand -hex 32`")
    return tuple(digests)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _unauthenticated(message: str) -> CallError:
    return CallError(grpc.StatusCode.UNAUTHENTICATED, message)
