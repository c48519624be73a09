"""Options of commands, made of the fields in which a default, a range and a meaning stand."""

from __future__ import annotations

import math
from typing import Any, Callable, Optional

import click

from metric_learn_client.option_fields import OptionFacts, is_whole, option_named

FILE = click.Path(exists=True, dir_okay=False)


class NumberRange(click.FloatRange):
    """As click's, but `nan` is in no range."""

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return found


def option_of(kind: Any, name: str, *spelled: str, mark: str = "", **more: Any) -> Callable[..., Any]:
    """The option `--name` of a command for the field `name` of the dataclass `kind`. mark: before its help text. more:
    what click is told besides."""
    field, facts = option_named(kind, name)
    flag = field.type == "bool" or bool(more.get("is_flag"))
    settings = {
        "default": field.default,
        "help": mark + facts.meaning.rstrip("."),
        "is_flag": flag,
        "show_default": not flag and field.default is not None,
        "type": None if flag else _type_of(field, facts),
    }
    return click.option(*(spelled or (f"--{name.replace('_', '-')}",)), **{**settings, **more})


def _type_of(field: Any, facts: OptionFacts) -> Any:
    if facts.choices:
        return click.Choice(facts.choices)
    low = facts.at_least if facts.above is None else facts.above
    if is_whole(field):
        most = None if facts.at_most is None else int(facts.at_most)
        return click.IntRange(None if low is None else int(low), most, min_open=facts.above is not None)
    return str if low is None else NumberRange(low, facts.at_most, min_open=facts.above is not None)
