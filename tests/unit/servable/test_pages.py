"""ARCHITECTURE.md and CONTRIBUTING.md name files that exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
CLIENT = "client/src/metric_learn_client/"
TOP = ("client", "servable", "export", "configs", "tests", "~")


def named():
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = re.sub(r"```.*?```", "", (REPOSITORY / page).read_text(), flags=re.DOTALL)
        for path in dict.fromkeys(re.findall(r"`([\w~./-]+/[\w./-]*)`|\]\(([\w./-]+)\)", text)):
            name = path[0] or path[1]
            if path[1] or (name.split("/")[0] in TOP and name != "~/"):
                yield pytest.param(name.replace("~/", CLIENT), id=f"{page}: {name}")


@pytest.mark.parametrize("path", named())
def test_a_path_that_a_page_names_exists(path):
    assert (REPOSITORY / path).exists()
