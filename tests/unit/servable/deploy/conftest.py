"""What the tests of the deployment files share: where the files are, and what the server promises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional

import pytest

from servable.config import REPOSITORY, load_config
from servable.config.sections import Config

DEPLOY = REPOSITORY / "configs" / "deploy"


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def configuration() -> Callable[..., Config]:
    """Loads a deployment's configuration, with the variables given and no other."""

    def load(path: Path, environment: Optional[Mapping[str, str]] = None) -> Config:
        return load_config(path, (), environment or {})

    return load


@pytest.fixture(scope="session")
def stop_s(configuration: Callable[..., Config]) -> float:
    """The longest that the server itself takes to end: the drain, then the end of MindSpore Serving."""
    from servable.backend import serving_process as backend

    drain_s = configuration(DEPLOY / "server-cpu.yaml").server.drain_s
    return drain_s + backend.STOP_S
