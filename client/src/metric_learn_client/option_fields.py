"""Options as fields of a dataclass: default, range and meaning stand there once. Checks, commands and pages are made of
them. Nothing is imported here that is not Python's own."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Optional

_KEY = "option"


@dataclass(frozen=True)
class OptionFacts:
    """meaning: in words. at_least, above, at_most: of a number; `above` excludes infinity too. choices: of a text."""

    meaning: str
    at_least: Optional[float] = None
    above: Optional[float] = None
    choices: tuple[str, ...] = ()
    at_most: Optional[float] = None


def option(
    default: Any,
    meaning: str,
    *,
    at_least: Optional[float] = None,
    above: Optional[float] = None,
    at_most: Optional[float] = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a dataclass of options."""
    facts = OptionFacts(meaning, at_least, above, choices, at_most)
    return dataclasses.field(default=default, metadata={_KEY: facts})


def facts_of(kind: Any) -> Iterator[tuple[dataclasses.Field[Any], OptionFacts]]:
    """The options of a dataclass or of an instance, in order."""
    return ((each, each.metadata[_KEY]) for each in dataclasses.fields(kind) if _KEY in each.metadata)


def taken(given: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Those of `given` that are options of the dataclass."""
    return {field.name: given[field.name] for field, _ in facts_of(kind) if field.name in given}


def option_named(kind: Any, name: str) -> tuple[dataclasses.Field[Any], OptionFacts]:
    """One of them."""
    return next((field, facts) for field, facts in facts_of(kind) if field.name == name)


def is_whole(field: dataclasses.Field[Any]) -> bool:
    """Is the option a whole number? The dataclasses' annotations are text, as their modules postpone them."""
    return field.type in ("int", "Optional[int]")


def check_options(options: Any) -> None:
    """Raises ValueError, with name and value, for the first option that is out of range. None is in range where it is
    the default."""
    for field, _ in facts_of(options):
        check_option(type(options), field.name, getattr(options, field.name))


def check_option(kind: Any, name: str, value: Any, shown: Optional[str] = None) -> None:
    """Raises ValueError where the dataclass `kind` has no place for `value` in its option `name`, which the caller
    may know as `shown`."""
    field, facts = option_named(kind, name)
    if value is None and field.default is None:
        return
    if facts.choices:
        check_choice(name, value, facts.choices)
    allowed = _range_of(facts, is_whole(field))
    if allowed and not _is_in_range(value, facts, is_whole(field)):
        raise ValueError(f"{shown or name}={value!r}: must be {allowed}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises ValueError where the value of `name` is none of the choices."""
    if value not in choices:
        *others, last = choices
        raise ValueError(f"{name}={value!r}: must be {', '.join(others)}{' or ' if others else ''}{last}")


def docstring_of(kind: Any) -> str:
    """`name: meaning` for each option, as docstrings have it."""
    lines = (f"{field.name}: {facts.meaning}" for field, facts in facts_of(kind))
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines)


def _is_in_range(value: Any, facts: OptionFacts, whole: bool) -> bool:
    number: Any = value if isinstance(value, Integral if whole else Real) else float("nan")
    if facts.at_most is not None and not number <= facts.at_most:
        return False
    return bool(number >= facts.at_least if facts.above is None else facts.above < number < float("inf"))


def _range_of(facts: OptionFacts, whole: bool) -> str:
    """In words; empty for an option without one."""
    number = "a whole number" if whole else "a number"
    most = "" if facts.at_most is None else f", at most {facts.at_most:,.0f}"
    if facts.above is not None:
        return f"{number} above {facts.above:g}{most}"
    return "" if facts.at_least is None else f"{number}, {facts.at_least:g} or more{most}"
