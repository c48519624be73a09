"""Everything that can keep the gateway from starting, looked at together: at its start, and by `--check`.

Reads files and binds addresses for a moment; writes nothing and starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from servable.config.problem import Problem, value_of, wrong
from servable.config.sections import Config
from servable.gateway.bind import address_problems
from servable.gateway.errors import StartError, gathered
from servable.gateway.observe.tracing import tracing_problems
from servable.gateway.security.tls import LoadedCertificates, load_certificates
from servable.gateway.security.tokens import LoadedTokens, load_tokens

# The first of each pair may be as large as the second at most.
ORDERED_KEYS = (
    ("limits.max_image_bytes", "limits.max_request_bytes"),
    ("limits.max_request_bytes", "limits.max_in_flight_bytes"),
    ("limits.max_instances", "limits.max_in_flight_instances"),
    ("deadlines.default_s", "deadlines.max_s"),
)


@dataclass(frozen=True)
class Prepared:
    """What was read. certificates: None for plain text; tokens: None where everybody may call."""

    certificates: Optional[LoadedCertificates]
    tokens: Optional[LoadedTokens]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will work, but perhaps not as the operator thinks."""
        return () if self.certificates is None else self.certificates.warnings


def prepare(config: Config) -> Prepared:
    """Raises StartError with all problems of limits, addresses, tracing, certificates and tokens."""
    problems = [*limit_problems(config), *address_problems(config), *tracing_problems(config)]
    certificates, tokens = None, None
    with gathered(problems):
        certificates = load_certificates(config)
    with gathered(problems):
        tokens = load_tokens(config)
    if problems:
        raise StartError(*problems)
    return Prepared(certificates, tokens)


def limit_problems(config: Config) -> Iterator[Problem]:
    """A limit that another one makes void. Pure."""
    for small, large in ORDERED_KEYS:
        most = value_of(config, large)
        if value_of(config, small) > most:
            yield wrong(config, small, f"is above {large} = {most}", f"lower it or raise {large}")
