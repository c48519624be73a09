"""Which endpoints are reached through an HTTP proxy, as gRPC reads the environment. Pure: it is passed in.

gRPC takes the first of `grpc_proxy`, `https_proxy` and `http_proxy` that is set (lower case, scheme http), for TLS and
for plain text alike, and leaves out the hosts of `no_grpc_proxy`, else `no_proxy`. Two things differ here. What is on
this machine never goes through a proxy. And a name is judged as the user wrote it, not by the address it has.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Optional
from urllib.parse import urlsplit

from metric_learn_client._client.core.targets import hosts_of, is_local

_PROXY = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY = ("no_grpc_proxy", "no_proxy")


def proxy_of(endpoint: str, environment: Mapping[str, str]) -> Optional[str]:
    """How messages name the proxy of the endpoint, "http://host:port (http_proxy)": without user and password. None
    where it is reached directly."""
    if is_local(endpoint):
        return None
    variable = next((name for name in _PROXY if environment.get(name)), None)
    if variable is None:
        return None
    excluded = next((environment[name] for name in _NO_PROXY if environment.get(name)), "")
    if all(_is_excluded(host, excluded) for host in hosts_of(endpoint)):
        return None
    try:
        proxy = urlsplit(environment[variable])
        where = f"{proxy.hostname}:{proxy.port or 443}"  # gRPC's own default port for a proxy without one
    except ValueError:
        return None
    return f"http://{where} ({variable})" if proxy.scheme == "http" and proxy.hostname else None


def _is_excluded(host: str, entries: str) -> bool:
    """Entries: names that the host ends with, addresses, networks ("10.0.0.0/8"), or "*"."""
    for entry in filter(None, (each.strip().lower() for each in entries.split(","))):
        if entry == "*" or host.lower().endswith(entry.lstrip("*")):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:  # one of the two is a name
            continue
    return False
