"""A problem in one line: where it was set, the key and its value, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from metric_learn_client.contract.exit_codes import ExitCode
from servable.config.sections import Config

CONFIGURATION = ExitCode.USAGE
NOT_READY = ExitCode.NOT_REACHABLE


@dataclass(frozen=True)
class Problem:
    """exit_code 2: the configuration or the exported version is wrong; 4: this host cannot serve it now.

    key: "section.key" where one key is to blame.
    """

    text: str
    exit_code: int = CONFIGURATION
    key: str = ""

    def __str__(self) -> str:
        return " ".join(self.text.split())


def wrong(config: Config, key: str, what: str, remedy: str, *, exit_code: int = CONFIGURATION) -> Problem:
    """`key` is "section.key"; its value and where it was set are looked up."""
    value = value_of(config, key)
    shown = list(value) if isinstance(value, tuple) else value
    return Problem(f"{config.origin(key)}: {key} = {shown}: {what}; {remedy}", exit_code, key)


def value_of(config: Config, key: str) -> Any:
    """`key` is "section.key"."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def exit_code(problems: Iterable[Problem]) -> int:
    """2 where the configuration is wrong, else 4 where the host is; 0 without problems."""
    codes = {problem.exit_code for problem in problems}
    return CONFIGURATION if CONFIGURATION in codes else max(codes, default=0)
