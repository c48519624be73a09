"""A problem in one line: where it was set, the key and its value, what is wrong, what to do."""

from __future__ import annotations

from dataclasses import dataclass

from servable.sections import Config

CONFIGURATION = 2
NOT_READY = 4


@dataclass(frozen=True)
class Problem:
    """exit_code 2: the configuration or the exported version is wrong; 4: this host cannot serve it now."""

    text: str
    exit_code: int = CONFIGURATION

    def __str__(self) -> str:
        return " ".join(self.text.split())


def wrong(config: Config, key: str, what: str, remedy: str, *, exit_code: int = CONFIGURATION) -> Problem:
    """`key` is "section.key"; its value and where it was set are looked up."""
    section, _, name = key.partition(".")
    value = getattr(getattr(config, section), name)
    shown = list(value) if isinstance(value, tuple) else value
    return Problem(f"{config.origin(key)}: {key} = {shown}: {what}; {remedy}", exit_code)
