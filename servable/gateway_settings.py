"""The configuration in the gateway's terms. Pure."""

from __future__ import annotations

from servable.gateway.settings import (
    AuthSettings,
    DeadlineSettings,
    GatewaySettings,
    LimitSettings,
    LogSettings,
    ReadinessSettings,
    TlsSettings,
    TracingSettings,
)
from servable.sections import Config


def gateway_settings(config: Config) -> GatewaySettings:
    """Sections and settings share their names; a test holds the two lists equal."""
    security = config.security
    tls = None
    if security.tls_certificate is not None and security.tls_private_key is not None:
        tls = TlsSettings(security.tls_certificate, security.tls_private_key, security.tls_client_ca)
    return GatewaySettings(
        address=config.server.address,
        http_address=config.server.http_address,
        drain_notice_s=config.server.drain_notice_s,
        when_down=config.server.when_down,
        allow_insecure=security.allow_insecure,
        limits=LimitSettings(**config.limits.model_dump()),
        deadlines=DeadlineSettings(**config.deadlines.model_dump()),
        readiness=ReadinessSettings(**config.readiness.model_dump()),
        log=LogSettings(**config.log.model_dump(include={"format", "level", "access"})),
        tracing=TracingSettings(**config.tracing.model_dump()),
        tls=tls,
        auth=None if security.tokens_file is None else AuthSettings(security.tokens_file),
    )
