"""What a client is configured with: checked once, frozen, passed down. No sockets, and no file is read here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Optional, Union

from metric_learn_client._client.core.proxies import proxy_of
from metric_learn_client._client.core.targets import is_local, parse_endpoints

DEFAULT_ENDPOINT = "127.0.0.1:5500"
DEFAULT_DEADLINE_S = 60.0
DEFAULT_BATCH_SIZE = 32  # images per call to the server; more saves little, see peers' practice of 16 to 64
DEFAULT_MAX_IN_FLIGHT = 8  # calls; two per model batch keep one device busy, the rest is for more endpoints
DEFAULT_RETRIES = 5  # rounds over all endpoints: about 2.5 s of waiting until "nothing serves" is said
TOKEN_ENVIRONMENT = "METRIC_LEARN_TOKEN"

Endpoints = Union[str, Sequence[str]]
Path = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class TlsOptions:
    """PEM files of a TLS connection.

    ca_file: who may have signed the server's certificate (None: the system's roots).
    cert_file: this client's own certificate, for mutual TLS.
    key_file: the key of cert_file.
    server_name: the name expected in the server's certificate where it is not the endpoint's host.
    """

    ca_file: Optional[Path] = None
    cert_file: Optional[Path] = None
    key_file: Optional[Path] = None
    server_name: Optional[str] = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or none")
        for path in (self.ca_file, self.cert_file, self.key_file):
            if path is not None and not os.path.isfile(path):
                raise ValueError(f"no such file: {os.fspath(path)}")


@dataclass(frozen=True)
class ClientOptions:
    """The checked options of a client; EmbeddingClient documents each. Raises ValueError with the value.

    proxies: of those endpoints that the environment has one for, as messages name them.
    """

    endpoints: tuple[str, ...]
    proxies: Mapping[str, str]
    deadline_s: float
    batch_size: int
    max_in_flight: int
    retries: int
    tls: Optional[TlsOptions]
    token: Optional[str]
    token_file: Optional[str]
    expected_fingerprint: Optional[str]
    allow_fingerprint_change: bool
    resize: Optional[Literal["server-exact"]]
    sandbox: bool


def client_options(
    endpoints: Endpoints,
    *,
    deadline_s: float,
    batch_size: int,
    max_in_flight: int,
    retries: int,
    tls: Union[bool, TlsOptions, None],
    token: Optional[str],
    token_file: Optional[Path],
    allow_insecure_token: bool,
    expected_fingerprint: Optional[str],
    allow_fingerprint_change: bool,
    resize: Optional[str],
    sandbox: bool = False,
) -> ClientOptions:
    check_deadline(deadline_s)
    for name, value in (("batch_size", batch_size), ("max_in_flight", max_in_flight)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    if not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries={retries!r} must be a whole number of at least 0")
    if resize not in (None, "server-exact"):
        raise ValueError(f'resize={resize!r} must be None or "server-exact"')
    if sandbox and resize is None:
        raise ValueError('sandbox=True says where pictures are decoded here: it needs resize="server-exact"')
    if token is not None and token_file is not None:
        raise ValueError("token and token_file exclude each other")
    if token is None and token_file is None:
        token = os.environ.get(TOKEN_ENVIRONMENT) or None
    if token is not None and (not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError("the token holds spaces or other characters that a header cannot carry")  # its value: secret
    parsed = parse_endpoints(endpoints)
    proxies = {each: proxy for each in parsed if (proxy := proxy_of(each, os.environ))}
    tls_options = (TlsOptions() if tls else None) if isinstance(tls, bool) else tls
    if (token or token_file) and tls_options is None and not allow_insecure_token:
        open_to_all = [endpoint for endpoint in parsed if not is_local(endpoint)]
        if open_to_all:
            proxy = proxies.get(open_to_all[0])
            raise ValueError(
                f"a token for {open_to_all[0]} would travel in plain text"
                f"{f', and be read by the proxy {proxy}' if proxy else ''}: set tls=, or allow_insecure_token=True"
                f" where the network{' and the proxy are' if proxy else ' is'} trusted"
            )
    return ClientOptions(
        endpoints=parsed,
        proxies=proxies,
        deadline_s=float(deadline_s),
        batch_size=batch_size,
        max_in_flight=max_in_flight,
        retries=retries,
        tls=tls_options,
        token=token,
        token_file=None if token_file is None else os.fspath(token_file),
        expected_fingerprint=expected_fingerprint,
        allow_fingerprint_change=allow_fingerprint_change,
        resize="server-exact" if resize else None,
        sandbox=sandbox,
    )


def check_deadline(deadline_s: float) -> None:
    """A deadline is always on: zero, negative, NaN and infinite ones are refused."""
    if not 0 < deadline_s < float("inf"):
        raise ValueError(f"deadline_s={deadline_s!r} must be a positive number of seconds")
