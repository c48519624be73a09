"""Certificates of the public ports: checked when read, read again when a file changes.

A renewed certificate serves the next connection; connections that exist keep theirs, so no call is dropped.
"""

from __future__ import annotations

import datetime
import logging
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Callable, Optional

from cryptography import x509

from servable.config.problem import Problem, wrong
from servable.config.sections import Config
from servable.gateway.errors import StartError, gathered
from servable.gateway.security.credential_file import Stamp, path_of, read_credential, stamp_of

CERTIFICATE, PRIVATE_KEY, CLIENT_CA = (
    "security.tls_certificate",
    "security.tls_private_key",
    "security.tls_client_ca",
)
HTTP_1, HTTP_2 = "http/1.1", "h2"  # as ALPN calls them (RFC 7301)
# X509_V_FLAG_PARTIAL_CHAIN: a CA in the file need not be a root, as with gRPC. `ssl` names it from Python 3.10 on.
PARTIAL_CHAIN = 0x80000
RETRY_S = 1.0  # files that could not be used are read again: a lack of descriptors or a half copied file passes
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedCertificates:
    """What the files held, for each protocol that a port speaks.

    expires_at: Unix time at which the server's own certificate ends. stamp: of the files.
    """

    contexts: Mapping[str, ssl.SSLContext]
    expires_at: float
    warnings: tuple[str, ...]
    stamp: Stamp


class Certificates:
    """The files are looked at before every handshake."""

    def __init__(
        self, config: Config, loaded: LoadedCertificates, on_reload: Callable[[bool], None] = lambda ok: None
    ) -> None:
        self._config = config
        self._on_reload = on_reload
        self._loaded = loaded  # the latest
        self._failed: tuple[Optional[Stamp], float] = (None, 0.0)  # what could not be used, and when
        self._complaint = ""  # said once, not with every handshake
        _warn(loaded)

    @property
    def expires_at(self) -> float:
        return self._loaded.expires_at

    def context(self, protocol: str) -> ssl.SSLContext:
        """Of the next handshake. protocol: HTTP_1 or HTTP_2."""
        self._reload()
        return self._loaded.contexts[protocol]

    def _reload(self) -> None:
        stamp = _stamp(self._config)
        if stamp == self._loaded.stamp:
            self._complaint = ""
            return
        failed, when = self._failed
        if stamp == failed and time.monotonic() - when < RETRY_S:
            return
        try:
            loaded = load_certificates(self._config)
        except StartError as error:
            self._failed = (stamp, time.monotonic())
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("certificates not reloaded, the earlier ones stay: %s", error)
                self._on_reload(False)
            return
        assert loaded is not None  # the keys are as they were at the start
        self._loaded, self._complaint = loaded, ""
        _warn(loaded)
        log.info("certificates reloaded from %s", self._config.security.tls_certificate)
        self._on_reload(True)


def load_certificates(config: Config) -> Optional[LoadedCertificates]:
    """Reads and checks all files; None where TLS is not configured.

    Raises StartError with every problem: half a pair, missing, not PEM, outside its dates, key of another certificate,
    no CA that is valid today. An expired CA beside a valid one is a warning.
    """
    security = config.security
    if security.tls_certificate is None and security.tls_private_key is None and security.tls_client_ca is None:
        return None
    stamp = _stamp(config)
    now = datetime.datetime.now(datetime.timezone.utc)
    problems = list(_incomplete(config))
    chain, key, authorities, leaf = b"", b"", None, None
    contexts: dict[str, ssl.SSLContext] = {}
    warnings: tuple[str, ...] = ()
    if not problems:
        with gathered(problems):
            chain = read_credential(config, CERTIFICATE)
            leaf = _certificates(config, CERTIFICATE, chain)[0]
            _check_dates(config, leaf, now)
        with gathered(problems):
            key = read_credential(config, PRIVATE_KEY, secret=True)
            if leaf is not None:
                contexts = {protocol: _check_pair(config, key, protocol) for protocol in (HTTP_1, HTTP_2)}
    if security.tls_client_ca is not None:
        with gathered(problems):
            authorities = read_credential(config, CLIENT_CA)
            warnings = _check_authorities(config, authorities, now)
    if problems or leaf is None:
        raise StartError(*problems)
    if authorities is not None:
        for context in contexts.values():
            context.load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= PARTIAL_CHAIN
    return LoadedCertificates(contexts, leaf.not_valid_after_utc.timestamp(), warnings, stamp)


def _incomplete(config: Config) -> Iterator[Problem]:
    security = config.security
    if security.tls_certificate is not None and security.tls_private_key is None:
        yield wrong(config, CERTIFICATE, "has no key", f"set {PRIVATE_KEY}")
    if security.tls_private_key is not None and security.tls_certificate is None:
        yield wrong(config, PRIVATE_KEY, "has no certificate", f"set {CERTIFICATE}")
    if security.tls_client_ca is not None and security.tls_certificate is None:
        what = "mutual TLS needs the server's own certificate"
        yield wrong(config, CLIENT_CA, what, f"set {CERTIFICATE} and {PRIVATE_KEY}")


def _certificates(config: Config, key: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        remedy = (
            "give the certificates of the clients' CAs"
            if key == CLIENT_CA
            else "give the leaf first, then its intermediates"
        )
        raise StartError(wrong(config, key, "holds no PEM certificate", remedy)) from error


def _check_dates(config: Config, leaf: x509.Certificate, now: datetime.datetime) -> None:
    if now > leaf.not_valid_after_utc:
        raise StartError(wrong(config, CERTIFICATE, f"expired at {_day(leaf.not_valid_after_utc)}", "renew it"))
    if now < leaf.not_valid_before_utc:
        what = f"is valid from {_day(leaf.not_valid_before_utc)} on"
        raise StartError(wrong(config, CERTIFICATE, what, "check this host's clock"))


def _check_pair(config: Config, key: bytes, protocol: str) -> ssl.SSLContext:
    """The pair as TLS itself takes it; a password would be asked for on the terminal, so an empty one is given."""
    certificate_file, key_file = path_of(config, CERTIFICATE), path_of(config, PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    try:
        context.load_cert_chain(certificate_file, key_file, password=lambda: "")
        return context
    except (ssl.SSLError, OSError, ValueError) as error:
        if "MISMATCH" in str(error):
            what, remedy = f"is not the key of {certificate_file}", "give the pair issued together"
        elif b"ENCRYPTED" in key:
            what, remedy = "is encrypted", "give it without a passphrase"
        else:
            what, remedy = f"is no PEM key that TLS takes ({error})", "give the certificate's own key"
        raise StartError(wrong(config, PRIVATE_KEY, what, remedy)) from error


def _check_authorities(config: Config, pem: bytes, now: datetime.datetime) -> tuple[str, ...]:
    """What to warn of. Any valid CA suffices: while callers move to a new CA, the old one may expire beside it."""
    authorities = _certificates(config, CLIENT_CA, pem)
    warnings = []
    for authority in authorities:
        if now > authority.not_valid_after_utc:
            why = f"expired at {_day(authority.not_valid_after_utc)}"
        elif now < authority.not_valid_before_utc:
            why = f"is valid from {_day(authority.not_valid_before_utc)} on"
        else:
            continue
        what = f"its CA {authority.subject.rfc4514_string()} {why}"
        warnings.append(str(wrong(config, CLIENT_CA, what, "callers with a certificate of it are refused")))
    if len(warnings) == len(authorities):
        raise StartError(wrong(config, CLIENT_CA, "no CA in it is valid today", "give the current one"))
    return tuple(warnings)


def _day(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _stamp(config: Config) -> Stamp:
    security = config.security
    return stamp_of((security.tls_certificate, security.tls_private_key, security.tls_client_ca))


def _warn(loaded: LoadedCertificates) -> None:
    for warning in loaded.warnings:
        log.warning("%s", warning)
