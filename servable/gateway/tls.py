"""Certificates of the public port: checked when read, read again when a file changes.

A renewed certificate serves the next connection; connections that exist keep theirs, so no call is dropped.
"""

from __future__ import annotations

import datetime
import logging
import ssl
import time
from pathlib import Path
from typing import Callable, Optional

import grpc
from cryptography import x509

from servable.gateway.errors import StartError
from servable.gateway.settings import TlsSettings

RETRY_S = 1.0  # files that could not be used are read again: a lack of descriptors or a half copied file passes
log = logging.getLogger(__name__)
Stamp = tuple[tuple[int, int, int], ...]


class SecurityError(StartError):
    """A certificate, key or token file cannot be used: the file, what is wrong with it, and what to do."""


class Certificates:
    """What the three PEM files hold. `credentials` for the server; files are looked at before every handshake."""

    def __init__(self, settings: TlsSettings, on_reload: Callable[[bool], None] = lambda ok: None) -> None:
        self._settings = settings
        self._on_reload = on_reload
        self._seen: Optional[Stamp] = _stamp(settings)
        self._failed: tuple[Optional[Stamp], float] = (None, 0.0)  # what could not be used, and when
        self._complaint = ""  # said once, not with every handshake
        self._initial = load_certificates(settings)
        self.expires_at = _expiry(settings)

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._initial, self._changed, require_client_authentication=self._settings.client_ca is not None
        )

    def _changed(self) -> Optional[grpc.ServerCertificateConfiguration]:
        """None: as before. Called by gRPC before each handshake, on a thread of its own."""
        try:
            stamp: Optional[Stamp] = None
            stamp = _stamp(self._settings)
            if stamp == self._seen:
                self._complaint = ""
                return None
            failed, when = self._failed
            if stamp == failed and time.monotonic() - when < RETRY_S:
                return None
            configuration = load_certificates(self._settings)
            self.expires_at = _expiry(self._settings)
        except SecurityError as error:
            self._failed = (stamp, time.monotonic())
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("certificates not reloaded, the earlier ones stay: %s", error)
                self._on_reload(False)
            return None
        self._seen, self._complaint = stamp, ""
        log.info("certificates reloaded from %s", self._settings.certificate)
        self._on_reload(True)
        return configuration


def load_certificates(
    settings: TlsSettings, now: Optional[datetime.datetime] = None
) -> grpc.ServerCertificateConfiguration:
    """Reads and checks all files. Raises SecurityError: missing, not PEM, expired, key of another certificate."""
    now = now or datetime.datetime.now(datetime.timezone.utc)
    chain = _read(settings.certificate, "certificate")
    leaf = _certificates(chain, settings.certificate)[0]
    _check_dates(leaf, settings.certificate, now)
    key = _read(settings.private_key, "private_key")
    try:
        # The pair as TLS itself takes it; a password would be asked for on the terminal, so an empty one is given.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.certificate, settings.private_key, password=lambda: ""
        )
    except (ssl.SSLError, OSError, ValueError) as error:
        if "MISMATCH" in str(error):
            raise SecurityError(
                f"{settings.private_key}: is not the key of {settings.certificate}; give both from one issue"
            ) from error
        raise SecurityError(
            f"{settings.private_key}: no usable private key; give an unencrypted PEM key file"
        ) from error
    roots = None
    if settings.client_ca is not None:
        roots = _read(settings.client_ca, "client_ca")
        for authority in _certificates(roots, settings.client_ca):
            _check_dates(authority, settings.client_ca, now)
    return grpc.ssl_server_certificate_configuration([(key, chain)], roots)


def _expiry(settings: TlsSettings) -> float:
    """Unix time at which the server's own certificate ends."""
    leaf = _certificates(_read(settings.certificate, "certificate"), settings.certificate)[0]
    return leaf.not_valid_after_utc.timestamp()


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SecurityError(f"{path}: {error.strerror}; tls.{what} must name a readable PEM file") from error


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SecurityError(f"{path}: holds no PEM certificate") from error


def _check_dates(certificate: x509.Certificate, path: Path, now: datetime.datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise SecurityError(f"{path}: expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it")
    if now < certificate.not_valid_before_utc:
        raise SecurityError(
            f"{path}: valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only; check this host's clock"
        )


def _stamp(settings: TlsSettings) -> Stamp:
    paths = [settings.certificate, settings.private_key]
    if settings.client_ca is not None:
        paths.append(settings.client_ca)
    try:
        stats = [path.stat() for path in paths]
    except OSError as error:
        raise SecurityError(f"{error.filename}: {error.strerror}") from error
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
