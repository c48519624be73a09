"""The page as people see it: in a browser at the width of a phone and of a desk, with pictures, with a token."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from tests.browser import browser, chromium
from tests.integration.servable.gateway.fake_serving import embedding_of
from tests.integration.servable.gateway.harness import WAIT_S, Harness, config_of

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium here; .ci/run installs one")
TOKEN = "a-token-of-16-or-more"
CUT = b"a picture that is cut off"
STATE_KNOWN = "document.getElementById('state').textContent !== 'asking …'"
MATRIX = (
    "[...document.querySelectorAll('.matrix tr')].slice(1)"
    ".map((row) => [...row.querySelectorAll('td')].map((cell) => Number(cell.textContent)))"
)
# How far the page reaches beyond its window.
SIDEWAYS = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with Harness(tmp_path_factory.mktemp("run")) as harness:
        harness.serving.image_errors[CUT] = "E_DECODE: the JPEG is cut off"
        yield harness


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "tokens").touch(0o600)
    (folder / "tokens").write_text(TOKEN)
    with Harness(folder, config_of(security={"tokens_file": str(folder / "tokens")})) as harness:
        yield harness


@pytest.fixture
def pictures(tmp_path):
    """Two files that are embedded, and one that is refused and whose name is HTML."""
    names = {"cup.jpg": b"a cup", "lamp.jpg": b"a lamp", "<img src=x onerror=alert(1)>.jpg": CUT}
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in names]


def visit(window, harness, *, width=1280, dark=False):
    window.said.clear()
    window.size(width, dark=dark)
    window.open(f"http://{harness.api_address}/")
    window.until(STATE_KNOWN)


def says(window, words):
    window.until(f"document.body.innerText.includes({json.dumps(words)})")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_dropped_pictures_are_compared_and_nothing_is_wider_than_the_window(window, harness, pictures, width, dark):
    visit(window, harness, width=width, dark=dark)
    assert window.evaluate(SIDEWAYS) == 0
    window.drop("#drop", pictures)
    says(window, "2 embedded, 1 failed")
    cup, lamp = embedding_of(b"a cup"), embedding_of(b"a lamp")
    expected = [[1, cup @ lamp], [cup @ lamp, 1]]
    assert np.allclose(window.evaluate(MATRIX), expected, atol=1e-4)
    assert window.evaluate(SIDEWAYS) == 0
    # A table that is wider than a phone scrolls; what its numbers mean does not go with it.
    words = "document.getElementById('matrix-words').getBoundingClientRect().right"
    assert 0 < window.evaluate(words) <= width


def test_a_picture_that_fails_says_why_in_words_and_its_name_is_text(window, harness, pictures):
    visit(window, harness)
    window.drop("#drop", pictures)
    says(window, "E_DECODE: the JPEG is cut off")
    assert pictures[2].name in window.text()
    assert window.evaluate("document.querySelectorAll('img[onerror]').length") == 0


def test_the_policy_lets_all_of_the_page_work(window, harness, pictures):
    visit(window, harness)
    window.choose("#files", pictures[:2])
    says(window, "2 embedded")
    assert window.said == []


def test_the_page_says_what_is_served_and_that_weights_are_made_up(window, harness):
    visit(window, harness)
    text = window.text()
    assert "Server: ready" in text and "STAND-IN WEIGHTS" in text
    assert "metric_learn, version 1" in text and "f" * 64 in text and "at most 256" in text
    assert f"http://{harness.api_address}/embed" in text


def test_everything_that_takes_the_keyboard_has_a_name_and_is_reached_by_tab(window, with_tokens):
    visit(window, with_tokens)
    window.send("Accessibility.enable")
    reached = set()
    for _ in range(20):
        window.press("Tab", 9)
        reached.add(window.evaluate("document.activeElement.id || document.activeElement.localName"))
    assert {"token", "files", "summary", "example-curl", "a"} <= reached
    nodes = window.send("Accessibility.getFullAXTree")["nodes"]
    kinds = ("button", "textbox", "link", "DisclosureTriangle", "table", "image")
    nameless = [
        node
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in kinds and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_without_a_token_the_page_says_the_state_alone_and_with_one_all_of_it(window, with_tokens, pictures):
    visit(window, with_tokens)
    assert "Server: ready" in window.text() and "Fingerprint" not in window.text()
    assert 'Authorization: Bearer $METRIC_LEARN_TOKEN"' in window.text()
    enter(window, "not-the-token-at-all")
    says(window, "This token is not valid here")
    enter(window, TOKEN)
    says(window, "Fingerprint")
    window.drop("#drop", pictures[:2])
    says(window, "2 embedded")


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js here; .ci/run installs it")
def test_the_examples_with_a_token_work_as_pasted(window, with_tokens, tmp_path):
    visit(window, with_tokens)
    window.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    curl, javascript = (
        window.evaluate(f"document.getElementById('example-{name}').innerText") for name in ("curl", "javascript")
    )
    (tmp_path / "a.jpg").write_bytes(b"a cup")
    (tmp_path / "b.jpg").write_bytes(b"a lamp")
    (tmp_path / "embed.mjs").write_text(javascript)
    here = {"cwd": tmp_path, "env": {**os.environ, "METRIC_LEARN_TOKEN": TOKEN}, "timeout": WAIT_S * 6}
    answer = subprocess.check_output(["sh", "-c", curl.splitlines()[0]], stderr=subprocess.DEVNULL, **here)
    assert np.array_equal(np.float32(json.loads(answer)["embedding"]), embedding_of(b"a cup"))
    printed = subprocess.check_output(["node", "embed.mjs"], text=True, **here)
    assert float(printed.split()[1]) == pytest.approx(embedding_of(b"a cup") @ embedding_of(b"a lamp"), abs=1e-6)


def test_the_token_is_gone_when_the_page_is_opened_again(window, with_tokens):
    visit(window, with_tokens)
    enter(window, TOKEN)
    says(window, "Fingerprint")
    visit(window, with_tokens)
    assert "Fingerprint" not in window.text()
    assert window.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])") == '[{},{},""]'


def test_a_picture_without_a_token_says_that_one_is_wanted(window, with_tokens, pictures):
    visit(window, with_tokens)
    window.drop("#drop", pictures[:1])
    says(window, "no token")


def test_a_server_that_is_not_ready_says_so(window, tmp_path):
    with Harness(tmp_path, start_backend=False) as starting:
        visit(window, starting)
        assert "Server: not ready: version 1 is" in window.text()


def enter(window, token):
    window.evaluate("document.getElementById('token').focus()")
    window.type(token)
    window.press("Enter", 13)
