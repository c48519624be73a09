"""Options as fields: what is out of range is refused with name, value and what is allowed."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

import click
import pytest
from click.testing import CliRunner

from metric_learn_client.cli.shared.field_options import option_of
from metric_learn_client.option_fields import check_options, docstring_of, option


# As a module that postpones its annotations has them.
@dataclass(frozen=True)
class Sample:
    count: "int" = option(2, "how many.", at_least=1)
    some: "Optional[int]" = option(None, "how many at most", at_least=0)
    wait_s: "float" = option(1.5, "how long " + "and long " * 20, above=0)
    most_s: "float" = option(1.5, "how long at most", above=0, at_most=1e6)
    kind: "str" = option("one", "which", choices=("one", "two", "three"))
    free: "Any" = option(None, "anything")
    quiet: "bool" = option(False, "say nothing")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "count=0: must be a whole number, 1 or more"),
        ({"count": 1.5}, "count=1.5: must be a whole number, 1 or more"),
        ({"count": None}, "count=None: must be a whole number"),
        ({"some": -1}, "some=-1: must be a whole number, 0 or more"),
        ({"wait_s": 0}, "wait_s=0: must be a number above 0"),
        ({"wait_s": float("nan")}, "wait_s=nan: must be a number above 0"),
        ({"wait_s": float("inf")}, "wait_s=inf: must be a number above 0"),
        ({"wait_s": "1"}, "wait_s='1': must be a number above 0"),
        ({"most_s": 1000001}, "most_s=1000001: must be a number above 0, at most 1,000,000"),
        ({"most_s": float("inf")}, "most_s=inf: must be a number above 0, at most"),
        ({"kind": "four"}, "kind='four': must be one, two or three"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(given, says):
    with pytest.raises(ValueError, match=says):
        check_options(Sample(**given))


def test_values_in_range_pass():
    check_options(Sample())
    check_options(Sample(count=1, some=0, wait_s=1, most_s=1e6, kind="two", free=object(), quiet=True))


def test_the_docstring_has_a_line_for_each_option_that_the_pages_can_read():
    lines = docstring_of(Sample).splitlines()
    assert [line.partition(":")[0] for line in lines if not line.startswith("    ")] == [
        field.name for field in dataclasses.fields(Sample)
    ]
    assert lines[0] == "count: how many." and max(map(len, lines)) <= 100


def test_a_commands_option_has_the_fields_default_range_and_meaning():
    @click.command()
    @option_of(Sample, "count", mark="[job] ")
    @option_of(Sample, "wait_s")
    @option_of(Sample, "most_s")
    @option_of(Sample, "kind")
    @option_of(Sample, "quiet")
    def command(**given):
        click.echo(repr(given))

    assert CliRunner().invoke(command, []).output.strip() == repr(
        {"count": 2, "wait_s": 1.5, "most_s": 1.5, "kind": "one", "quiet": False}
    )
    assert CliRunner().invoke(command, ["--count", "0"]).exit_code == 2
    assert CliRunner().invoke(command, ["--wait-s", "0"]).exit_code == 2
    assert CliRunner().invoke(command, ["--most-s", "inf"]).exit_code == 2
    shown = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "[job] how many [default: 2; x>=1]" in shown and "[one|two|three]" in shown
