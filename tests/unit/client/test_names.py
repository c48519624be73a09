"""A newcomer finds things by their names: none stands twice, no folder is a pile, and tests are where the source is."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
# What is imported from there -> where it is.
SOURCES = {
    "client": REPOSITORY / "client" / "src" / "metric_learn_client",
    "servable": REPOSITORY / "servable",
    "export": REPOSITORY / "export",
}
MODULES = sorted(path for source in SOURCES.values() for path in source.rglob("*.py"))
FOLDERS = [pytest.param(path, id=str(path.relative_to(REPOSITORY))) for path in sorted({it.parent for it in MODULES})]
MOST_MODULES = 13

# Names of modules and packages that may stand twice, and why nobody takes one for the other.
ALIKE = {
    "bench": "a command, beside the package that it calls",
    "errors": "each program has its own, and a folder's name says whose",
    "golden": "the export's and the client's command, beside the golden set that both write",
    "index": "a command, beside the package that it calls",
    "inputs": "images that a client takes, and sets that a job takes",
    "job": "a command, beside the package that it calls",
    "limits": "of one image, and of the gateway's calls",
    "metrics": "of an evaluation, and of the gateway: both fields call theirs so",
    "options": "of a client, and of a job",
    "search": "a command, beside the package that it calls",
    "verify": "a command of the client, and one of the export",
}
TEST_FOLDERS = {"servable/deploy": "configs/deploy, which has no source"}


def twice(names):
    return sorted(name for name, count in Counter(names).items() if count > 1)


def classes(path):
    return [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]


def listed(folder):
    """The names before the descriptions, where the docstring of a package is a list of its modules, in columns."""
    text = (
        ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) if (folder / "__init__.py").exists() else ""
    )
    cells = [re.split(r"\s{2,}", line) for line in (text or "").splitlines() if re.match(r"\w[\w, /]*\s{2,}\w", line)]
    return [name.strip(" /") for row in cells for names in row[::2] for name in names.split(",")]


def members(folder):
    return {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}


def test_no_two_classes_have_one_name():
    assert twice(name for path in MODULES for name in classes(path)) == []


def test_no_two_modules_or_packages_have_one_name_but_those_that_nobody_confuses():
    modules = [path.stem for path in MODULES if not path.stem.startswith("__") and path.stem != path.parent.name]
    assert twice(modules + [folder.values[0].name for folder in FOLDERS]) == sorted(ALIKE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_has_more_modules_than_one_takes_in(folder):
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES


@pytest.mark.parametrize("folder", [it for it in FOLDERS if listed(it.values[0])])
def test_a_package_that_lists_its_modules_lists_all_of_them_and_no_others(folder):
    assert set(listed(folder)) == {name for name in members(folder) if not name.startswith("__")}


@pytest.mark.parametrize("tier", SOURCES)
def test_unit_tests_are_in_the_folders_that_the_source_has(tier):
    tests = REPOSITORY / "tests" / "unit" / tier
    found = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")}
    there = {path.parent.relative_to(SOURCES[tier]).as_posix() for path in SOURCES[tier].rglob("*.py")}
    assert {f"{tier}/{folder}" for folder in found - there} <= set(TEST_FOLDERS)
