"""URLs that answer late, for ever, too little or the wrong thing, and jobs that read them and are told to end."""

import json
import signal
import time

import pytest

from metric_learn_client.exit_codes import ExitCode
from metric_learn_client.jobs import embed_dataset, verify
from metric_learn_client.jobs.errors import RowError
from metric_learn_client.jobs.storage import read_image, read_range
from tests.integration.client.jobs.conftest import Job, data, until
from tests.integration.client.jobs.wrong_http import CONTENT, WrongHttp

pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, which is not installed here")

MB = 1 << 20


@pytest.fixture
def server():
    with WrongHttp() as made:
        yield made


def test_whole_files_and_parts_of_them_are_read(server):
    for name in ("good", "plain", "moved"):
        assert read_image(f"{server.url}/{name}", MB, 10) == CONTENT
    assert read_image(f"{server.url}/empty", MB, 10) == b""
    assert read_range(f"{server.url}/good", 1000, 500, 10) == CONTENT[1000:1500]
    assert read_range(f"{server.url}/moved", 1000, 500, 10) == CONTENT[1000:1500]
    assert read_range(f"{server.url}/good", len(CONTENT) - 5, 500, 10) == CONTENT[-5:]


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("missing", "E_NOT_FOUND", "no such object"),
        ("forbidden", "E_READ", "HTTP status 403"),
        ("broken", "E_READ", "HTTP status 500"),
        ("short", "E_READ", ""),
        ("loop", "E_READ", ""),
        ("silent", "E_READ", "no whole answer within 1 s (--read-timeout-s)"),
        ("dripping", "E_READ", "no whole answer within 1 s (--read-timeout-s)"),
        ("endless", "E_TOO_LARGE", f"more than {MB} bytes, the limit"),
    ],
)
def test_an_answer_that_is_no_whole_file_is_an_error_of_the_row_and_in_time(server, name, code, says):
    started = time.monotonic()
    with pytest.raises(RowError) as caught:
        read_image(f"{server.url}/{name}", MB, 1 if name in ("silent", "dripping") else 10)
    assert caught.value.code == code and says in caught.value.message and "\n" not in caught.value.message
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("name", ["plain", "elsewhere", "unsaid"])
def test_bytes_of_another_place_are_never_taken_for_those_asked_for(server, name):
    with pytest.raises(RowError, match=r"E_READ: the server answers with .* was asked for|in place of the part"):
        read_range(f"{server.url}/{name}", 1000, 500, 10)
    assert len(server.asked) == 1


def test_an_answer_that_says_no_is_not_asked_for_again(server):
    for name in ("missing", "forbidden"):
        with pytest.raises(RowError):
            read_image(f"{server.url}/{name}", MB, 10)
    assert server.asked == ["/missing", "/forbidden"]


def urls(server, folder, names):
    (folder / "list.txt").write_text("".join(f"{server.url}/{name}\n" for name in names))
    return folder / "list.txt"


def test_a_job_gives_every_url_its_row_in_embeddings_or_failures(tmp_path, fake, server):
    names = ["good.jpg", "silent.jpg", "endless.jpg", "short.jpg", "dripping.jpg", "good.png"]
    summary = embed_dataset(
        urls(server, tmp_path, names),
        tmp_path / "out",
        endpoint=fake.endpoint,
        read_timeout_s=1.5,
        max_image_bytes=MB,
    )
    assert (summary.rows, summary.succeeded, summary.failed) == (6, 2, 4)
    assert verify(tmp_path / "out").problems == ()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_job_whose_url_never_answers_and_the_next_run_goes_on(tmp_path, fake, server, number, code):
    names = ["good.jpg"] * 30 + ["silent.jpg"] + ["good.jpg"] * 9
    flags = ("--shard-size", 10, "--batch-size", 5, "--in-flight", 2, "--read-threads", 2)
    job = Job(urls(server, tmp_path, names), tmp_path / "out", fake.endpoint, *flags)
    process = job.start()
    until(process, "shard")
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 15
    assert process.returncode == code and "Traceback" not in err, err
    assert "the same command goes on from there" in json.loads(out.splitlines()[-1])["text"]
    assert verify(tmp_path / "out").problems == ()
    exit_code, events, err = job.run("--read-timeout-s", 1)
    assert exit_code == ExitCode.SOME_FAILED, err
    assert (events[-1]["succeeded"], events[-1]["failed"]) == (39, 1)
    embed_dataset(tmp_path / "list.txt", tmp_path / "whole", endpoint=fake.endpoint, shard_size=10, read_timeout_s=1.0)
    assert data(tmp_path / "out") == data(tmp_path / "whole")


def test_a_job_ends_at_the_second_signal_at_once(tmp_path, fake, server):
    process = Job(urls(server, tmp_path, ["silent.jpg"] * 9), tmp_path / "out", fake.endpoint).start()
    until(process, "started")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 143
    process.communicate()
    assert (tmp_path / "out" / "job.json").exists()
