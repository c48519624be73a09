"""The command that serves, and the same in Python.

python -m servable.serving_server --config configs/cpu.yaml [--check] [--set section.key=value ...]

Needs nothing but the standard library until the interpreter is known to be the right one.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servable.config.sections import Config

# Before grpc is imported, and whatever a client's process handed on: children are executed here, they are no forked
# copies that gRPC would have to follow.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

PYTHON = (3, 9)  # the oldest that this server is written for
NOT_READY = 4  # metric_learn_client.contract.exit_codes.NOT_REACHABLE, which cannot be imported yet


def start(config: Config) -> int:
    """Serves until SIGINT or SIGTERM; blocks, and returns the exit code.

    To be called in the main thread, for the signals. Raises servable.config.ConfigError,
    servable.command.NotReadyError, servable.backend.supervisor.StartFailed.
    """
    from servable import command

    return command.start(config)


def main() -> None:
    if sys.version_info < PYTHON:
        found = ".".join(map(str, sys.version_info[:2]))
        _refuse(f"Python {found} ({sys.executable}): the server needs 3.9 or newer; use .venv/server/bin/python")
    try:
        from servable import command
    except ModuleNotFoundError as error:
        _refuse(f"Python {sys.executable}: {error.name} is not installed; run `make server-env`")
    command.main()


def _refuse(text: str) -> None:
    print(f"serving_server: {text}", file=sys.stderr)
    sys.exit(NOT_READY)


if __name__ == "__main__":
    main()
