"""The pages lead where they say, and those that are written from the source say what it says."""

import importlib.util
import re
from pathlib import Path

import pytest

from metric_learn_client.contract.image_codes import ClientImageCode, ImageErrorCode

REPOSITORY = Path(__file__).parents[3]
FOLDERS = ("client", "servable", "export", "configs", "tests", ".github")
PAGES = [
    path
    for path in sorted(
        {*REPOSITORY.glob("*.md"), *(each for name in FOLDERS for each in (REPOSITORY / name).rglob("*.md"))}
    )
    if not {"node_modules", ".venv"} & set(path.parts)
]
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")
SOURCE = REPOSITORY / "client" / "src" / "metric_learn_client"


def text_of(page):
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What the headings of a page are called in a link, as GitHub makes it."""
    heads = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page):
    for found in LINK.findall(text_of(page)):
        target = found[0] or found[1]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            yield target


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_docs", REPOSITORY / "client" / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(REPOSITORY))) for page in PAGES])
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    assert list(broken(page)) == []


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = [found[0].partition("#")[0] for found in LINK.findall(text_of(page))]
        places = [
            (page.parent / target).resolve() for target in targets if target.endswith(".md") and ":" not in target
        ]
        waiting += [place for place in places if place not in reached]
    assert [page for page in PAGES if page not in reached and ".github" not in page.parts] == []


def test_the_page_of_options_is_what_the_source_gives(generate):
    assert (REPOSITORY / "client" / "docs" / "options.md").read_text() == generate.options_page()


def test_the_page_of_errors_is_what_the_source_gives(generate):
    assert (REPOSITORY / "client" / "docs" / "errors.md").read_text() == generate.errors_page()


def test_an_argument_without_a_meaning_is_refused(generate):
    def job(first, second):
        """first: the first."""

    with pytest.raises(ValueError, match="does not say what second means"):
        list(generate._arguments(job))


def test_every_code_that_the_client_says_of_an_image_is_explained():
    said = {code for path in SOURCE.rglob("*.py") for code in re.findall(r"\"(E_[A-Z_]+)[\":]", path.read_text())}
    assert said <= {*(each.value for each in ImageErrorCode), *(each.value for each in ClientImageCode)}
