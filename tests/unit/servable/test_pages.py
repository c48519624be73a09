"""What the pages name is there: files, modules that are run, targets of make."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
CLIENT = "client/src/metric_learn_client/"
TOP = ("client", "servable", "export", "configs", "tests", "~")
PAGES = [
    path
    for name in (".", *TOP[:-1], ".github")
    for path in sorted((REPOSITORY / name).glob("*.md" if name == "." else "**/*.md"))
    if path.name != "CHANGELOG.md" and not {"node_modules", ".venv"} & set(path.parts)
]


def cases(pattern, names_of):
    """A case for each name that a page has, in pages' order."""
    for page in PAGES:
        label = page.relative_to(REPOSITORY)
        for name in dict.fromkeys(name for found in re.finditer(pattern, page.read_text()) for name in names_of(found)):
            yield pytest.param(name, id=f"{label}: {name}")


def path_of(found):
    name = found[1]
    if name.split("/")[0] in TOP and name != "~/":
        yield name.replace("~/", CLIENT)


def module_of(found):
    if found[1].split(".")[0] in ("servable", "export", "tests", "metric_learn_client"):
        yield found[1].replace("metric_learn_client", CLIENT.replace("/", ".").strip("."))


def targets_of(found):
    for word in found[1].split():
        if not re.fullmatch(r"[a-z][a-z0-9.-]*", word):
            return
        yield word


@pytest.mark.parametrize("path", cases(r"`([\w~./-]+/[\w./-]*)`", path_of))
def test_a_path_that_a_page_names_exists(path):
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("module", cases(r"python(?:3[.\d]*)? -m ([\w.]+)", module_of))
def test_a_module_that_a_page_runs_exists(module):
    path = REPOSITORY / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("target", cases(r"`make ([a-z][^`#\n]*)", targets_of))
def test_a_target_of_make_that_a_page_names_exists(target):
    assert re.search(
        rf"^[a-z .%-]*(?<![\w-]){re.escape(target)}(?![\w-])[^:=]*:", (REPOSITORY / "Makefile").read_text(), re.M
    )
