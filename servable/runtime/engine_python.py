"""The Python that runs MindSpore Serving: another one than the server's own, in an environment of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the export runs where its packages are not
    from servable.config.sections import Config


def installed_engine_python() -> Path:
    """That of the environment `engine` beside the one that this runs in. It need not exist."""
    return Path(sys.prefix).with_name("engine") / "bin" / "python"


def engine_python(config: Config) -> Path:
    """backend.engine_python, else that of the environment `engine` beside the server's own. It need not exist.

    Not resolved: the file of an environment is a link, and its name is what makes its Python find the environment.
    """
    given = config.backend.engine_python
    return given if given is not None else installed_engine_python()
