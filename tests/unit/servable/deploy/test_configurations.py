"""The servers' own configuration as it is deployed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

import pytest

from servable.config import REPOSITORY
from servable.config.sections import Config
from servable.doctor.consistency import inconsistencies

# backend.target -> Kubernetes overlays
OVERLAYS = {"cpu": ["cpu"], "ascend310": ["ascend310", "ascend310p"], "ascend910": ["ascend910"]}


@pytest.mark.parametrize("target", OVERLAYS)
def test_a_deployed_configuration_is_valid_and_exposes_nothing_in_plain_text(
    target: str, deploy: Path, configuration: Callable[..., Config]
) -> None:
    config = configuration(deploy / f"server-{target}.yaml")
    assert [str(problem) for problem in inconsistencies(config)] == []
    assert config.server.address.startswith("0.0.0.0:") and not config.security.allow_insecure
    assert config.security.tls_certificate and config.security.tls_private_key and config.security.tokens_file


@pytest.mark.parametrize("target", OVERLAYS)
def test_a_deployed_backend_is_that_of_the_targets_configuration(
    target: str, deploy: Path, configuration: Callable[..., Config]
) -> None:
    deployed = configuration(deploy / f"server-{target}.yaml").backend
    plain = configuration(REPOSITORY / "configs" / f"{target}.yaml").backend
    assert deployed == plain


@pytest.mark.parametrize(("target", "overlay"), [(target, one) for target in OVERLAYS for one in OVERLAYS[target]])
def test_kubernetes_gets_the_same_file(target: str, overlay: str, deploy: Path) -> None:
    copy = deploy / "kubernetes" / "overlays" / overlay / "server.yaml"
    assert copy.read_text() == (deploy / f"server-{target}.yaml").read_text()


def test_every_file_that_a_page_names_is_there(deploy: Path) -> None:
    text = "".join(page.read_text() for page in deploy.glob("*.md"))
    named = set(re.findall(r"configs/deploy/([\w./-]+\w)", text)) | set(
        re.findall(r"`((?:systemd|docker)/[\w./-]+)`", text)
    )
    assert len(named) > 5
    assert {name for name in named if not (deploy / name).exists()} == set()
