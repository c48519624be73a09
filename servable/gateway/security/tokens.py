"""Bearer tokens (RFC 6750) from a file: any of them opens the door; a changed file counts within a second."""

from __future__ import annotations

import codecs
import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from typing import Callable, Optional, Union

import grpc

from servable.config.problem import wrong
from servable.config.sections import Config
from servable.gateway.errors import CallError, StartError
from servable.gateway.security.credential_file import Stamp, read_credential, stamp_of

CHECK_INTERVAL_S = 1.0
KEY = "security.tokens_file"
# A token is one word of printable ASCII: what the value of a metadata entry may hold, without the space that ends it.
MIN_TOKEN_CHARACTERS = 16
_TOKEN = re.compile(rb"[!-~]{%d,}" % MIN_TOKEN_CHARACTERS)
_COMMENT = re.compile(rb"(^|\s)#.*")  # a word that starts with `#`, to the end of its line, in any encoding
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedTokens:
    """SHA-256 of each token of the file, and the file's stamp."""

    digests: tuple[bytes, ...]
    stamp: Stamp


class Tokens:
    """The valid tokens; the file is looked at again before a call, at most once a second."""

    def __init__(
        self, config: Config, loaded: LoadedTokens, on_reload: Callable[[bool], None] = lambda ok: None
    ) -> None:
        self._config = config
        self._on_reload = on_reload
        self._looked_at = time.monotonic()
        self._stamp = loaded.stamp
        self._digests = loaded.digests
        self._complaint = ""  # said once, not every second

    def check(self, authorization: Optional[Union[str, bytes]]) -> None:
        """`authorization`: the metadata's value. Raises CallError (UNAUTHENTICATED)."""
        self._reload_if_changed()
        if authorization is None:
            raise _unauthenticated("no token; send 'authorization: Bearer <token>'")
        text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
        scheme, _, token = text.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthenticated("not a bearer token; send 'authorization: Bearer <token>'")
        digest = _digest(token.strip().encode("utf-8", "surrogateescape"))
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
        path = self._config.security.tokens_file
        stamp = stamp_of([path])
        if stamp == self._stamp:
            self._complaint = ""
            return
        try:
            loaded = load_tokens(self._config)
        except StartError as error:  # tried again: a lack of descriptors or a half copied file passes
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("tokens not reloaded, the earlier ones stay valid: %s", error)
                self._on_reload(False)
            return
        assert loaded is not None  # the key is as it was at the start
        self._stamp, self._digests, self._complaint = loaded.stamp, loaded.digests, ""
        log.info("%d tokens reloaded from %s", len(self._digests), path)
        self._on_reload(True)


def load_tokens(config: Config) -> Optional[LoadedTokens]:
    """Reads security.tokens_file: one token a line, a word that starts with `#` starts a comment. None without a file.

    Raises StartError: not readable, readable by everybody, a line that is no token, no token at all.
    """
    path = config.security.tokens_file
    if path is None:
        return None
    stamp = stamp_of([path])
    data = read_credential(config, KEY, secret=True).removeprefix(codecs.BOM_UTF8)
    lines = [_COMMENT.sub(b"", line).strip() for line in data.splitlines()]
    wrong_lines = [number for number, line in enumerate(lines, 1) if line and not _TOKEN.fullmatch(line)]
    if wrong_lines:
        more = f" (nor are {len(wrong_lines) - 1} more lines)" if len(wrong_lines) > 1 else ""
        what = (
            f"line {wrong_lines[0]} is not a token of at least {MIN_TOKEN_CHARACTERS} printable ASCII characters "
            f"without spaces{more}"
        )
        raise StartError(wrong(config, KEY, what, "write one such as `openssl rand -hex 32` gives"))
    digests = tuple(_digest(line) for line in lines if line)
    if not digests:
        what = "holds no token, so every call would be refused"
        raise StartError(wrong(config, KEY, what, "write one token a line, such as `openssl rand -hex 32` gives"))
    return LoadedTokens(digests, stamp)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _unauthenticated(message: str) -> CallError:
    return CallError(grpc.StatusCode.UNAUTHENTICATED, message)
