"""Images in a process that may end: the real stages, in the engine's environment."""

import asyncio
import time
from pathlib import Path

import psutil
import pytest

from servable.backend import image_trial as module
from servable.backend.image_trial import image_trial
from servable.backend.launcher import decode_limits
from servable.backend.leftovers import marked_processes
from servable.config.sections import Config
from tests.e2e.deadly import copy_of_the_server, picture

REPOSITORY = Path(__file__).parents[4]
PYTHON = REPOSITORY / ".venv/engine/bin/python"
GOOD = (REPOSITORY / "tests/golden/images/cat_tiny_60x40.jpg").read_bytes()
LIMITS = decode_limits(Config())


@pytest.fixture(scope="module")
def deadly(tmp_path_factory):
    """An interpreter whose stages obey the last bytes of an image."""
    folder = tmp_path_factory.mktemp("deadly")
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{copy_of_the_server(folder)}" exec "{PYTHON}" "$@"\n')
    script.chmod(0o755)
    return script


def tried(run_dir, *images, method="embed", python=PYTHON):
    """Which of the images ended a process; nothing of it is left then."""

    async def run():
        async with image_trial(python, LIMITS, run_dir) as ends:
            return [await ends(method, image) for image in images]

    found = asyncio.run(run())
    limit = time.monotonic() + 10  # the decoders see that their parent has gone
    while marked_processes(run_dir.resolve()):
        assert time.monotonic() < limit, marked_processes(run_dir)
    assert not list(run_dir.iterdir())
    return found


def test_an_image_that_can_be_worked_on_or_has_an_error_of_its_own_ends_nothing(tmp_path):
    assert tried(tmp_path, GOOD, b"", b"no image", GOOD[:-200], GOOD) == [False] * 5
    assert tried(tmp_path, bytes(224 * 224 * 3), bytes(5), method="embed_pixels") == [False] * 2


def test_only_the_image_that_ends_its_process_or_holds_it_up_is_named_whatever_the_way(tmp_path, deadly, monkeypatch):
    monkeypatch.setattr(module, "IMAGE_S", 60.0)  # for one that spins beside other work to use its second
    orders = ("kill", "crash", "spin", "stop", "sleep")
    images = [each for order in orders for each in (picture(GOOD, order), GOOD)]
    assert tried(tmp_path, *images, python=deadly) == [True, False] * len(orders)


def test_an_image_that_is_still_worked_on_when_the_time_is_over_is_not_named(tmp_path, deadly, monkeypatch):
    monkeypatch.setattr(module, "IMAGE_S", 1.0)
    monkeypatch.setattr(module, "PROCESSOR_S", 60.0)
    assert tried(tmp_path, picture(GOOD, "spin"), GOOD, python=deadly) == [False, False]


def test_a_signal_that_a_stop_of_the_server_sends_to_all_blames_no_image(tmp_path, deadly):
    assert tried(tmp_path, picture(GOOD, "term"), GOOD, python=deadly) == [False, False]


def test_where_no_process_can_be_had_it_says_so(tmp_path):
    before = psutil.Process().children()
    with pytest.raises(OSError, match="no process to try images in"):
        tried(tmp_path, GOOD, python=Path("/bin/false"))
    assert psutil.Process().children() == before
