"""metric-learn against the fake: what it writes, says and returns."""

import json
import threading

import click
import cv2
import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest

from metric_learn_client import ClosedError, EmbeddingClient, UnreachableError
from metric_learn_client.bench.runner import Load, Measurement, UnstableError
from metric_learn_client.cli.embed_files import embed_files
from metric_learn_client.cli.shared.connection import open_client
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.testing import FakeServable, Faults, fake_embeddings

from .commands import Command, run


@pytest.fixture
def folder(tmp_path):
    for number in range(70):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"corrupt" if number == 40 else b"image %d" % number)
    return tmp_path


@pytest.fixture
def client(fake):
    with EmbeddingClient(fake.endpoint, deadline_s=20, retries=1) as made:
        yield made


def test_rows_follow_the_order_given_in_every_format(folder, client, capsys):
    names = [str(folder / f"{number:02}.jpg") for number in reversed(range(70))]
    expected = fake_embeddings([b"image %d" % number for number in reversed(range(70))])
    expected[29] = np.nan
    for kind in ("npy", "parquet", "jsonl"):
        assert embed_files(names, str(folder / f"x.{kind}"), client) is ExitCode.SOME_FAILED
        said = capsys.readouterr()
        assert said.out == "" and f"{names[29]}: E_DECODE: " in said.err and "1 of 70 images failed" in said.err
    assert np.array_equal(np.load(folder / "x.npy"), expected, equal_nan=True)
    table = pq.read_table(folder / "x.parquet")
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[2048]"
    rows = table["embedding"].to_pylist()
    assert rows[29] is None and (np.array(rows[:29] + rows[30:], np.float32) == np.delete(expected, 29, axis=0)).all()
    lines = [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()]
    assert lines[29] == {"image_path": names[29], "code": "E_DECODE", "message": "the image is broken or cut off"}
    assert (np.array([line["embedding"] for line in lines[:29]], np.float32) == expected[:29]).all()
    assert [line["image_path"] for line in lines] == names


def test_an_output_appears_whole_or_not_at_all(folder, fake, client):
    (folder / "x.npy").write_text("old")
    fake.faults = Faults(status="UNAVAILABLE")
    with pytest.raises(UnreachableError):
        embed_files([str(folder / "01.jpg")], str(folder / "x.npy"), client)
    with pytest.raises(UnreachableError):
        embed_files([str(folder / "01.jpg")], str(folder / "x.jsonl"), client)
    assert (folder / "x.npy").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".jpg") == ["x.npy"]


class Ending(FakeServable):
    """Says what it serves until it has embedded something."""

    def _get_model(self, body, context):
        if self.calls:
            context.abort(grpc.StatusCode.UNAVAILABLE, "it stops")
        return super()._get_model(body, context)


def test_a_server_that_stops_after_the_last_image_costs_no_output(folder):
    with Ending() as server, EmbeddingClient(server.endpoint, retries=0) as client:
        assert embed_files([str(folder / "01.jpg")], str(folder / "x.parquet"), client) is ExitCode.DONE
    table = pq.read_table(folder / "x.parquet")
    assert table.schema.metadata[b"metric_learn.fingerprint"].decode() == server.fingerprint and len(table) == 1


@pytest.mark.parametrize("output", ["x.csv", "x", "none/x.npy"])
def test_an_output_that_cannot_be_is_a_usage_error_before_a_call(folder, fake, client, output):
    with pytest.raises(click.UsageError, match=output):
        embed_files([str(folder / "01.jpg")], str(folder / output), client)
    assert fake.calls == 0


def test_status_tells_ready_from_not_and_one_model_from_two(fake):
    done = run("status", "--endpoint", fake.endpoint)
    assert (done.returncode, done.stderr) == (0, "") and "serves metric_learn version 1 (fake weights" in done.stdout
    with FakeServable(fingerprint="b" * 64) as other:
        done = run("status", "--endpoint", f"{fake.endpoint},{other.endpoint}", "--json")
        assert [json.loads(line)["ready"] for line in done.stdout.splitlines()] == [True, True]
        assert done.returncode == 5 and "different models" in done.stderr
    fake.ready = False
    done = run("status", "--endpoint", fake.endpoint, "--json", "--wait-s", "3")
    assert done.returncode == 4 and "not serving" in json.loads(done.stdout)["reason"]
    assert run("status", "--endpoint", "127.0.0.1:1").returncode == 4
    done = run("status", "--endpoint", "nonsense")
    assert done.returncode == 2 and "host:port" in done.stderr


class Stopping(FakeServable):
    """Ready to whoever asks first, and to nobody afterwards."""

    asked = 0

    @property
    def ready(self):
        self.asked += 1
        return self.asked == 1

    @ready.setter
    def ready(self, _):
        pass


def test_status_says_of_a_server_that_stops_meanwhile_that_it_was_ready():
    with Stopping() as server:
        done = run("status", "--endpoint", server.endpoint)
    assert done.returncode == 4 and done.stdout == "not ready: it was ready a moment ago, and is not any more\n"


def test_status_waits_for_a_server_that_starts(fake):
    fake.ready = False
    with Command(["status", "--wait-s", "20", "--endpoint", fake.endpoint]) as process:
        fake.ready = True
        assert process.wait(20) == 0


def test_bench_measures_levels_and_writes_them(fake, tmp_path):
    fake.faults.delay_s = 0.01
    window = ["--measurement-interval-s", "0.4", "--stability-percentage", "60"]
    done = run(
        "bench", "--endpoint", fake.endpoint, "--concurrency-range", "1:3:2", *window, "--csv", tmp_path / "x.csv"
    )
    assert done.returncode == 0, done.stderr
    one, three = [[float(cell) for cell in line.split()] for line in done.stdout.splitlines()[1:]]
    assert one[0] == 1 and three[0] == 3 and three[1] > 1.5 * one[1] and one[4] >= 10
    header, *rows = (tmp_path / "x.csv").read_text().splitlines()
    assert header.startswith("load,images_per_s") and len(rows) == 2
    done = run("bench", "--endpoint", fake.endpoint, "--request-rate-range", "60", *window, "--json", "--seed", "4")
    assert done.returncode == 0, done.stderr
    (level,) = map(json.loads, done.stdout.splitlines())
    assert 30 < level["calls_per_s"] < 90 and level["failed"] == 0


def test_bench_says_what_it_will_not_report(fake):
    done = run("bench", "--endpoint", fake.endpoint, "--measurement-interval-s", "0.1", "--stability-percentage", "0")
    assert done.returncode == 5 and "not stable after 10 windows" in done.stderr
    assert len(done.stdout.splitlines()) == 1  # the heading
    for wrong in (["--concurrency-range", "1.5"], ["--concurrency-range", "3:1"], ["--request-rate-range", "x"]):
        assert run("bench", "--endpoint", fake.endpoint, *wrong).returncode == 2
    both = ["--concurrency-range", "1", "--request-rate-range", "1"]
    assert run("bench", "--endpoint", fake.endpoint, *both).returncode == 2
    done = run("bench", "--endpoint", fake.endpoint, "--batch-size", "257")
    assert done.returncode == 2 and "--batch-size 257: a call of this service has at most 256 images" in done.stderr
    assert run("bench", "--endpoint", "127.0.0.1:1", "--deadline-s", "5").returncode == 4


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["status", "--wait-s", "inf"], "--wait-s"),
        (["status", "--wait-s", "nan"], "--wait-s"),
        (["evaluate", "--images", ".", "--min-recall-at-1", "nan"], "--min-recall-at-1"),
        (["status", "--deadline-s", "1e10"], "--deadline-s"),
        (["bench", "--measurement-interval-s", "inf"], "--measurement-interval-s"),
        (["evaluate", "--images", ".", "--label-column", "x"], "--label-column"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_that_cannot_be_is_a_usage_error_that_names_it(fake, arguments, option):
    done = run(*arguments, "--endpoint", fake.endpoint)
    assert done.returncode == 2 and option in done.stderr, done.stderr
    assert fake.calls == 0


def test_an_open_loop_counts_the_waiting_of_calls_that_could_not_start():
    """A server that does one call at a time, 20 ms each, asked for 100 a second: latency must show the queue."""
    turn = threading.Lock()

    def call():
        with turn:
            threading.Event().wait(0.02)  # the service time itself
        return 1

    load = Load(call)
    load.open_loop(100.0, "constant", 0)
    try:
        with pytest.raises(UnstableError, match="in latency"):
            load.measure(100.0, Measurement(0.3, 10.0, None, 4))
    finally:
        load.close()


def test_where_no_call_succeeds_their_error_is_raised():
    def call():
        raise ClosedError("closed")

    load = Load(call)
    load.closed_loop(2)
    try:
        with pytest.raises(ClosedError):
            load.measure(2, Measurement(0.1, 10.0, None, 4))
    finally:
        load.close()


def test_connection_options_become_the_client(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with open_client("127.0.0.1:1", 3.0, token_file=str(tmp_path / "token"), expected_fingerprint="f") as client:
        options = client._core.options
        assert (options.deadline_s, options.expected_fingerprint, client._core.token.current()) == (3.0, "f", "secret")
    with open_client("a:1", 3.0, tls=True) as client:
        assert client._core.options.tls is not None
    with pytest.raises(click.UsageError, match="belong together"):
        open_client("a:1", 3.0, cert_file=str(tmp_path / "token"))
    with pytest.raises(click.UsageError, match="plain text"):
        open_client("a:1", 3.0, token_file=str(tmp_path / "token"))


def test_a_report_finds_its_pictures_below_the_folder_that_was_embedded_and_says_which_it_lacks(fake, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        name = str(tmp_path / "photos" / f"{number}.png")
        cv2.imwrite(name, np.full((20, 20, 3), 30 * number, np.uint8))
    (tmp_path / "labels.txt").write_text("".join(f"photos/{number}.png {number % 2}\n" for number in range(6)))
    done = run("embed", "labels.txt", "--output-dir", "out", "--endpoint", fake.endpoint, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = ["evaluate", "out", "--report", "report.html", "--image-root", "photos"]
    done = run(*line, cwd=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert done.returncode == 0 and "could not be shown" not in done.stderr, done.stderr
    assert page.count("data:image/jpeg") > 3
    (tmp_path / "photos" / "3.png").unlink()
    done = run(*line, cwd=tmp_path)
    assert "1 of 6 pictures could not be shown, as photos/3.png (" in done.stderr
    assert (tmp_path / "report.html").read_text().count("data:image/jpeg") < page.count("data:image/jpeg")
