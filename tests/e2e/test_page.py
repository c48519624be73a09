"""The page of a real server: its pictures' similarity, and its examples as people paste them."""

import re
import shutil
import subprocess

import pytest

from metric_learn_client import EmbeddingClient
from tests.browser import browser, chromium

from .conftest import REPOSITORY

IMAGES = REPOSITORY / "tests" / "golden" / "images"
WIRES = REPOSITORY / ".venv" / "wires" / "bin" / "python"
PICTURES = {"a.jpg": "astronaut_420_q90.jpg", "b.jpg": "cat_progressive.jpg"}
pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium here; .ci/run installs one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a.jpg and b.jpg are, as the page says."""
    folder = tmp_path_factory.mktemp("pasted")
    for name, source in PICTURES.items():
        shutil.copy(IMAGES / source, folder / name)
    return folder


@pytest.fixture(scope="module")
def similarity(server, folder):
    with EmbeddingClient(server.endpoint) as client:
        a, b = client.embed([folder / name for name in PICTURES])
    return float(a @ b)


@pytest.fixture(scope="module")
def page(server, folder, tmp_path_factory):
    """(the examples by name, as the browser shows them; the similarity that the page finds)."""
    with browser(tmp_path_factory.mktemp("profile")) as window:
        window.size(1280)
        window.open(f"http://{server.api_endpoint}/")
        window.until("document.getElementById('state').textContent === 'ready'")
        window.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        examples = window.evaluate(
            "Object.fromEntries([...document.querySelectorAll('pre')].map((each) => [each.id, each.innerText]))"
        )
        window.choose("#files", [folder / name for name in PICTURES])
        window.until("document.querySelectorAll('.matrix td').length === 5")
        found = window.evaluate("Number(document.querySelectorAll('.matrix td')[2].textContent)")
    return examples, found


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed(output):
    return float(re.fullmatch(r"similarity (\S+)\n", output)[1])


def test_the_pages_similarity_is_that_of_the_clients_embeddings(page, similarity):
    assert page[1] == pytest.approx(similarity, abs=1e-4)


def test_the_curl_lines_work(page, folder):
    one, two = page[0]["example-curl"].splitlines()
    assert len(re.findall(r"-?\d\.\d+", run(["sh", "-c", one], folder))) > 2000
    assert len(re.findall(r"-?\d\.\d+", run(["sh", "-c", two], folder))) > 4000


def test_the_example_with_the_client_package_works(page, folder, similarity):
    client = REPOSITORY / ".venv" / "client" / "bin" / "python"
    assert printed(run([client, "-c", page[0]["example-python"]], folder)) == pytest.approx(similarity, abs=1e-6)


@pytest.mark.skipif(not WIRES.exists(), reason="make wires-env installs the package openai")
def test_the_example_with_the_package_openai_works(page, folder, similarity):
    assert printed(run([WIRES, "-c", page[0]["example-openai"]], folder)) == pytest.approx(similarity, abs=1e-6)


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js here; .ci/run installs it")
def test_the_javascript_example_works(page, folder, similarity):
    (folder / "embed.mjs").write_text(page[0]["example-javascript"])
    assert printed(run(["node", "embed.mjs"], folder)) == pytest.approx(similarity, abs=1e-6)


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")
def test_the_java_example_works(page, folder, similarity):
    (folder / "Embed.java").write_text(page[0]["example-java"])
    assert printed(run(["java", "Embed.java"], folder)) == pytest.approx(similarity, abs=1e-6)


@pytest.mark.long  # some 10 s of compiling
@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go here")
def test_the_go_example_works(page, folder, similarity):
    (folder / "embed.go").write_text(page[0]["example-go"])
    assert printed(run(["go", "run", "embed.go"], folder)) == pytest.approx(similarity, abs=1e-6)
