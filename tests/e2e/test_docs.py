"""The commands of the client's pages, word for word, in a folder with what they name; the reports that they make are
opened in a browser, and every picture in them must have loaded."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest
import skimage.data

from .conftest import REPOSITORY

PAGES = ("client/README.md", "client/docs/jobs.md", "client/docs/evaluation.md")
COMMAND = str(REPOSITORY / ".venv" / "client" / "bin" / "metric-learn")
ENDPOINT = r"\b(?:127\.0\.0\.1|10\.0\.0\.\d):5500\b"
# What is not run here, by how it begins, and why.
LEFT_OUT = {
    "pip install": "installs from a registry",
    "#SBATCH": "is Slurm's",
    "metric-learn embed 'data/{00000..00999}.tar'": "is a thousand archives, by Slurm; tests/integration has parts",
    "metric-learn embed 's3://bucket/": "is a cluster of Ray; tests/integration has one",
    "metric-learn bench": "takes minutes; test_client has it, shorter",
    "python -m export golden": "is of the export's environment; test_export has it",
    "metric-learn golden record": "names pictures in words; test_parity_gate has it",
}


def commands():
    """Every line of the pages' shell blocks, in order, without its comment."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip():
                    yield page, line


def shown(line):
    return line if line.startswith("#") else shlex.join(shlex.split(line, comments=True))


def is_left_out(line):
    return any(line.startswith(beginning) for beginning in LEFT_OUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/ with a folder a class, and the other names that the pages use."""
    made = tmp_path_factory.mktemp("docs")
    originals = sorted(REPOSITORY.glob("tests/golden/images/*.jpg"))[:2]
    for name in ("astronaut", "coffee", "chelsea"):
        (made / "photos" / name).mkdir(parents=True)
        image = cv2.imread(str(Path(skimage.data.__file__).parent / f"{name}.png"))
        for number, cut in enumerate((0, 20, 40, 60)):
            view = image[cut : image.shape[0] - cut, cut : image.shape[1] - cut]
            cv2.imwrite(str(made / "photos" / name / f"{number}.jpg"), view)
    shutil.copy(originals[0], made / "a.jpg")
    shutil.copy(made / "photos" / "coffee" / "1.jpg", made / "query.jpg")
    cv2.imwrite(str(made / "b.png"), cv2.imread(str(originals[1])))
    (made / "tests").mkdir()
    (made / "tests" / "golden").symlink_to(REPOSITORY / "tests" / "golden")
    return made


@pytest.fixture(scope="module")
def followed(server, folder):
    """[(page, command, what came of it)], in the order of the pages."""
    done = []
    for page, line in commands():
        if is_left_out(line):
            continue
        arguments = shlex.split(re.sub(ENDPOINT, server.endpoint, line), comments=True)
        assert arguments[0] == "metric-learn", f"{page}: {line}: neither run nor left out with a reason"
        environment = {"METRIC_LEARN_ENDPOINT": server.endpoint, "PATH": "/usr/bin:/bin", "HOME": str(folder)}
        process = subprocess.run(
            [COMMAND, *arguments[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
        )
        done.append((page, shown(line), process))
    return done


def test_what_is_left_out_is_on_the_pages():
    lines = [line for _, line in commands()]
    assert [each for each in LEFT_OUT if not any(line.startswith(each) for line in lines)] == []


def test_every_other_command_of_the_pages_does_what_they_say(followed):
    failed = [(page, command, done.returncode, done.stderr) for page, command, done in followed if done.returncode]
    assert failed == []
    assert len(followed) >= 10


@pytest.mark.parametrize(("name", "least"), [("report.html", 1), ("page.html", 11)])
def test_every_picture_of_a_page_that_they_make_loads_in_a_browser(followed, folder, tmp_path, name, least):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    loaded, pictures = loaded_pictures(browser, (folder / name).read_text(), tmp_path)
    assert loaded == pictures >= least
    # the counting can fail
    wrong = 'src="data:image/png;base64,AAAA"'
    broken = re.sub(r'src="data:image/[^"]{100,}"', wrong, (folder / name).read_text(), count=1)
    assert loaded_pictures(browser, broken, tmp_path) == (pictures - 1, pictures)
    assert not [done.stderr for _, command, done in followed if name in command and "missing" in done.stderr]


COUNT = """<script>addEventListener("load", () => {
    const all = [...document.images];
    document.title = `pictures ${all.filter(each => each.complete && each.naturalWidth > 0).length} of ${all.length}`;
})</script>"""


def loaded_pictures(browser, page, folder):
    """(how many pictures have loaded, how many there are): by a script that is added to the page, which has none."""
    copy = folder / "copy.html"
    copy.write_text(re.sub(r"<meta[^>]*Content-Security-Policy[^>]*>", "", page).replace("</body>", f"{COUNT}</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-sync"
    command = [browser, *flags.split(), "--disable-component-update", f"--user-data-dir={folder}/profile"]
    command += ["--virtual-time-budget=10000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return tuple(map(int, re.search(r"<title>pictures (\d+) of (\d+)</title>", done.stdout).groups()))
