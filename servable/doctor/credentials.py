"""Certificates, keys and tokens: readable, well-formed, valid today, and matching."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from servable.doctor.problem import NOT_READY, Problem, wrong
from servable.sections import Config
from servable.token_file import COMMENT, MIN_TOKEN_CHARACTERS

_COMMENT = re.compile(COMMENT.encode())
OPEN_BITS = 0o007  # readable by everybody


def credential_problems(config: Config) -> Iterator[Problem]:
    security = config.security
    if security.tls_certificate is not None and security.tls_private_key is not None:
        yield from _pair(config, security.tls_certificate, security.tls_private_key)
    if security.tls_client_ca is not None:
        yield from _client_ca(config, security.tls_client_ca)
    if security.tokens_file is not None:
        yield from _tokens(config, security.tokens_file)


def _pair(config: Config, certificate_file: Path, key_file: Path) -> Iterator[Problem]:
    from cryptography import x509  # only where TLS is configured: it takes a moment to load
    from cryptography.hazmat.primitives import serialization

    certificate = None
    key, name = "security.tls_certificate", "security.tls_private_key"
    data, problem = _read(config, key, certificate_file)
    if problem:
        yield problem
    elif data is not None:
        try:
            certificate = x509.load_pem_x509_certificate(data)
        except ValueError:
            yield wrong(config, key, "is not a PEM certificate", "give the leaf first, then its intermediates")
    if certificate is not None:
        yield from _validity(config, key, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    data, problem = _read(config, name, key_file)
    if problem:
        yield problem
        return
    assert data is not None
    if key_file.stat().st_mode & OPEN_BITS:
        yield wrong(config, name, "everybody on this host can read it", "run `chmod 640` on it")
    try:
        private = serialization.load_pem_private_key(data, None)
    except TypeError:
        yield wrong(config, name, "is encrypted", "give it without a passphrase")
    except ValueError:
        yield wrong(config, name, "is not a PEM key", "give the certificate's own key")
    else:
        encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if certificate is not None and private.public_key().public_bytes(*encoding) != (
            certificate.public_key().public_bytes(*encoding)
        ):
            yield wrong(config, name, f"is not the key of {certificate_file}", "give the pair issued together")


def _validity(config: Config, key: str, first: datetime.datetime, last: datetime.datetime) -> Iterator[Problem]:
    now = datetime.datetime.now(datetime.timezone.utc)
    if now > last:
        yield wrong(config, key, f"expired at {last:%Y-%m-%d %H:%M} UTC", "renew it")
    elif now < first:
        yield wrong(config, key, f"is valid from {first:%Y-%m-%d %H:%M} UTC on", "check this host's clock")


def _client_ca(config: Config, path: Path) -> Iterator[Problem]:
    from cryptography import x509

    key = "security.tls_client_ca"
    data, problem = _read(config, key, path)
    if problem:
        yield problem
        return
    try:
        authorities = x509.load_pem_x509_certificates(data or b"")
    except ValueError:
        yield wrong(config, key, "holds no PEM certificate", "give the certificate of the clients' CA")
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    if all(authority.not_valid_after_utc < now for authority in authorities):
        yield wrong(config, key, "every certificate in it has expired", "give the current CA")


def _tokens(config: Config, path: Path) -> Iterator[Problem]:
    key = "security.tokens_file"
    data, problem = _read(config, key, path)
    if problem:
        yield problem
        return
    assert data is not None
    if path.stat().st_mode & OPEN_BITS:
        yield wrong(config, key, "everybody on this host can read it", "run `chmod 640` on it")
    lines = [_COMMENT.sub(b"", line).strip() for line in data.splitlines()]
    tokens = [line for line in lines if line]
    if not tokens:
        yield wrong(config, key, "holds no token, so every call would be refused", "write one token a line")
    for number, line in enumerate(lines, start=1):
        if line and (len(line) < MIN_TOKEN_CHARACTERS or not line.isascii() or b" " in line):
            what = f"line {number} is not a token of at least {MIN_TOKEN_CHARACTERS} ASCII characters"
            yield wrong(config, key, what, "write one such as `openssl rand -hex 32` gives")


def _read(config: Config, key: str, path: Path) -> tuple[Optional[bytes], Optional[Problem]]:
    try:
        return path.read_bytes(), None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        code = NOT_READY if isinstance(error, PermissionError) else 2
        return None, wrong(config, key, reason, "give a file that this user can read", exit_code=code)
