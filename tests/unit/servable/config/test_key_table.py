"""The table of keys in servable/README.md is what the sections say."""

import pytest

from servable.config.key_table import PAGE, key_table, with_key_table
from servable.config.sections import Config

KEYS = [
    pytest.param(field, id=f"{name}.{key}")
    for name, section in Config.model_fields.items()
    for key, field in type(section.default).model_fields.items()
]


def test_the_page_is_up_to_date():
    page = PAGE.read_text()
    assert with_key_table(page) == page, "run `.venv/server/bin/python -m servable.config.key_table`"


@pytest.mark.parametrize("field", KEYS)
def test_every_key_says_what_it_means(field):
    assert field.description and "|" not in field.description


@pytest.mark.parametrize("field", [key for key in KEYS if key.values[0].annotation in (int, float)])
def test_every_number_has_a_range(field):
    assert {type(bound).__name__ for bound in field.metadata} in ({"Ge", "Le"}, {"Gt", "Le"})


@pytest.mark.parametrize(
    "row",
    [
        "| `backend.threads` | `0` | whole number, 0 to 1024 |",
        "| `server.drain_s` | `20.0` | seconds, 0 to 3600 |",
        "| `deadlines.max_s` | `120.0` | seconds, above 0, at most 3600 |",
        "| `log.format` | `text` | `text`, `json` |",
        "| `log.access` | `true` | `true`, `false` |",
        "| `security.tokens_file` | - | a path |",
        "| `model.versions` | `[]` | a list of whole numbers, 1 to 2147483647 |",
        "| `server.run_dir` | `<tmp>/metric-learn-serving-<uid>` | a path |",
    ],
    ids=lambda row: row.split("`")[1],
)
def test_a_row_shows_default_unit_and_range(row):
    assert row in key_table()


def test_a_page_without_the_table_is_refused():
    with pytest.raises(ValueError, match="no table"):
        with_key_table("# Nothing\n")
