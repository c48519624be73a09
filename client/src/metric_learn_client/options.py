"""What a client is configured with: checked once, frozen, passed down. No sockets, and no file is read here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Optional, Union

from metric_learn_client._client.core.proxies import proxy_of
from metric_learn_client._client.core.targets import is_local, parse_endpoints
from metric_learn_client._client.token import fits_header
from metric_learn_client.option_fields import check_options, option

_TOKEN_ENVIRONMENT = "METRIC_LEARN_TOKEN"

MOST_S = 1e6  # eleven days; Python's waits take 4.29e6 s on Windows, and overflow above

Endpoints = Union[str, Sequence[str]]
Path = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class TlsOptions:
    """PEM files of a TLS connection."""

    ca_file: Optional[Path] = option(
        None, "PEM file of who may have signed the server's certificate (default: the system's authorities)."
    )
    cert_file: Optional[Path] = option(None, "PEM file of this client's own certificate, for mutual TLS.")
    key_file: Optional[Path] = option(None, "PEM file of the key of the client's certificate.")
    server_name: Optional[str] = option(
        None, "the name expected in the server's certificate, where it is not the endpoint's host."
    )

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or none")
        for path in (self.ca_file, self.cert_file, self.key_file):
            if path is not None and not os.path.isfile(path):
                raise ValueError(f"no such file: {os.fspath(path)}")


@dataclass(frozen=True)
class ClientOptions:
    """The options of a client as a user gives them; when it is made they are checked, and endpoints and token are as
    they will be used. proxies: of those endpoints that the environment has one for, as messages name them."""

    endpoints: Endpoints = option(
        "127.0.0.1:5500",
        '"host:port[,host:port...]"; "unix:/path" too; in Python also a sequence of them. Calls go to the least loaded'
        " one; one that fails is left out and taken back. A host name stands for all its addresses.",
    )
    deadline_s: float = option(
        60.0,
        "seconds that a call may take as a whole, retries and waiting included. Always on.",
        above=0,
        at_most=MOST_S,
    )
    # CPU an image is 1.70 ms at 8 a call and 1.56 at 128 (tests/benchmarks).
    batch_size: int = option(32, "images per call to the server; the server's own limits lower it.", at_least=1)
    # Two per model batch keep one device busy; the rest is for more endpoints.
    max_in_flight: int = option(8, "calls to the server at once. Fewer while it says RESOURCE_EXHAUSTED.", at_least=1)
    # About 2.5 s of waiting until "nothing serves" is said.
    retries: int = option(
        5,
        "rounds over all endpoints for a server that is not there, with pauses that double from 0.1 to 2 s. A busy"
        " server is asked again until the deadline.",
        at_least=0,
    )
    tls: Union[bool, TlsOptions, None] = option(
        None, "TLS with the system's certificate authorities; in Python also TlsOptions (default: plain text)."
    )
    token: Optional[str] = option(None, f"bearer token (default: the environment variable {_TOKEN_ENVIRONMENT}).")
    token_file: Optional[Path] = option(None, "a file that holds the bearer token, read again whenever it changes.")
    allow_insecure_token: bool = option(
        False, "send a token in plain text to other machines, too; else it goes to this machine alone."
    )
    expected_fingerprint: Optional[str] = option(
        None,
        "every reply must carry it, so embeddings of any other model are refused. Without it the first reply's"
        " fingerprint is the expected one.",
    )
    allow_fingerprint_change: bool = option(False, "let the fingerprint change from call to call (never within one).")
    resize: Optional[Literal["server-exact"]] = option(
        None,
        '"server-exact" runs the servable\'s preprocessing here and sends 150 kB of pixels per image: the same'
        " embeddings for less traffic. Needs OpenCV (the extra [preprocess]).",
        choices=("server-exact",),
    )
    sandbox: bool = option(
        False,
        "with resize, decode in processes of their own, one a core, as the server does: a picture that crashes or"
        " hangs the decoder is that picture's error, not the end of this process. Linux.",
    )
    proxies: Mapping[str, str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Raises ValueError, with the value."""
        check_options(self)
        if self.sandbox and self.resize is None:
            raise ValueError('sandbox=True says where pictures are decoded here: it needs resize="server-exact"')
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file exclude each other")
        token = self.token
        if token is None and self.token_file is None:
            token = os.environ.get(_TOKEN_ENVIRONMENT) or None
        if token is not None and not fits_header(token):
            # Without its value, which is a secret.
            raise ValueError("the token holds spaces or other characters that a header cannot carry")
        endpoints = parse_endpoints(self.endpoints)
        proxies = {each: proxy for each in endpoints if (proxy := proxy_of(each, os.environ))}
        for name, value in (("token", token), ("endpoints", endpoints), ("proxies", proxies)):
            object.__setattr__(self, name, value)
        if (token or self.token_file) and self.tls_options is None and not self.allow_insecure_token:
            self._refuse_plain_text(endpoints, proxies)

    @property
    def tls_options(self) -> Optional[TlsOptions]:
        """None: plain text."""
        return (TlsOptions() if self.tls else None) if isinstance(self.tls, bool) else self.tls

    def _refuse_plain_text(self, endpoints: tuple[str, ...], proxies: Mapping[str, str]) -> None:
        open_to_all = [endpoint for endpoint in endpoints if not is_local(endpoint)]
        if open_to_all:
            proxy = proxies.get(open_to_all[0])
            raise ValueError(
                f"a token for {open_to_all[0]} would travel in plain text"
                f"{f', and be read by the proxy {proxy}' if proxy else ''}: set tls=, or allow_insecure_token=True"
                f" where the network{' and the proxy are' if proxy else ' is'} trusted"
            )
