"""Closed streams, readers that go, full disks, names that are no text: one line and an exit code, and nothing lost."""

import errno
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from metric_learn_client import cli
from metric_learn_client.cli.shared.output_file import OutputFileError, WholeFile, why_not, write_text
from metric_learn_client.jobs import embed_dataset
from metric_learn_client.testing import FakeServable, fake_embeddings

from .commands import run

COMMAND = os.path.join(os.path.dirname(sys.executable), "metric-learn")  # in a shell: a start as users start it
GOLDEN = Path(__file__).parents[2] / "golden"
FULL = "No space left on device"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A job's output and an index of it."""
    folder = tmp_path_factory.mktemp("made")
    for label in "ab":
        (folder / "in" / label).mkdir(parents=True)
        for number in range(4):
            (folder / "in" / label / f"{number}.jpg").write_bytes(b"picture %d" % number + label.encode())
    with FakeServable() as server:
        embed_dataset(str(folder / "in"), folder / "out", endpoint=server.endpoint)
    assert run("index", "build", folder / "out", "--output", folder / "index").returncode == 0
    return folder


def shell(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)


def lines_of(command, made, endpoint):
    return (
        f"{COMMAND} "
        + {
            "status": f"status --endpoint {endpoint}",
            "embed": f"embed {made}/in/a/0.jpg --endpoint {endpoint}",
            "search": f"search --index {made}/index --stored {made}/in/a/0.jpg",
            "evaluate": f"evaluate {made}/out --label-from-folder",
            "duplicates": f"index duplicates {made}/out",
            "show": f"job show {made}/out",
            "help": "--help",
        }[command]
    )


@pytest.mark.parametrize("command", ["status", "embed", "search", "show", "help"])
def test_output_that_cannot_be_written_is_one_line_and_an_exit_code(command, made, fake):
    for redirect, reason in ((">&-", "Bad file descriptor"), ("> /dev/full", FULL)):
        done = shell(f"{lines_of(command, made, fake.endpoint)} {redirect}")
        assert (done.returncode, done.stderr) == (1, f"metric-learn: standard output: {reason}\n")


@pytest.mark.parametrize("command", ["status", "embed", "show"])
def test_a_log_that_cannot_be_written_changes_nothing_else(command, made, fake):
    line = lines_of(command, made, fake.endpoint)
    expected = shell(line)
    assert expected.returncode == 0
    for redirect in ("2> /dev/full", "0<&- 2>&-"):
        done = shell(f"{line} {redirect}")
        assert done.returncode == 0 and len(done.stdout) == pytest.approx(len(expected.stdout), abs=20)


def test_the_output_file_never_gets_the_number_of_a_closed_log(made, fake, tmp_path):
    for redirect in ("2>&-", ">&-", "0<&-", "0<&- >&- 2>&-"):
        images = f"{made}/in/a/0.jpg none.jpg"
        done = shell(f"{COMMAND} embed {images} --endpoint {fake.endpoint} --output {tmp_path}/x.npy {redirect}")
        assert done.returncode == 3
        assert (np.load(tmp_path / "x.npy")[0] == fake_embeddings([b"picture 0a"])[0]).all()


def test_a_reader_that_goes_is_one_line(made, fake):
    done = shell(f"{{ {COMMAND} embed {made}/in/a/*.jpg --endpoint {fake.endpoint}; echo code $? >&2; }} | head -c 1")
    assert done.stderr == "metric-learn: standard output: its reader is gone\ncode 1\n"


def test_names_from_a_closed_standard_input_are_one_line(fake, tmp_path):
    for output in ("", f"--output-dir {tmp_path}/out"):
        done = shell(f"{COMMAND} embed - {output} --endpoint {fake.endpoint} <&-")
        assert (done.returncode, done.stderr) == (2, "Error: standard input: Bad file descriptor\n")


@pytest.mark.parametrize(
    "content",
    [
        b"a.jpg\0b.jpg\0",
        "a.jpg\r\nb.jpg\r\n".encode("utf-16"),
        b"\xef\xbb\xbfa.jpg\nb.jpg",
        b"a.jpg\nb.jpg\n\xff\x8b\n",
    ],
    ids=["find -print0", "PowerShell", "mark", "no text"],
)
def test_names_on_standard_input_are_read_as_those_of_a_job(fake, tmp_path, monkeypatch, capsys, content):
    for name in ("a.jpg", "b.jpg", b"\xff\x8b"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8", "strict"))
    assert cli.run(["embed", "-", "--endpoint", fake.endpoint]) == 0
    names = [json.loads(line)["image_path"] for line in capsys.readouterr().out.splitlines()]
    assert names == ["a.jpg", "b.jpg", "\\xff\\x8b"][: len(names)] and len(names) == 2 + (b"\x8b" in content)


def test_names_that_are_no_text_are_read_embedded_and_told_apart(fake, tmp_path):
    names = [b"\xff.jpg", b"\\xff.jpg", b"\xc3\xa9.jpg", b"a\\b.jpg"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(name)
    (tmp_path / "names").write_bytes(b"\n".join(names) + b"\nno\xfe.jpg\n")
    expected = ["\\xff.jpg", "\\x5cxff.jpg", "é.jpg", "a\\b.jpg", "no\\xfe.jpg"]
    for locale in ("C.UTF-8", "C"):
        for output in ("x.parquet", "x.jsonl"):
            done = shell(
                f"cd {tmp_path} && LC_ALL={locale} PYTHONIOENCODING=utf-8:strict {COMMAND} embed - --output {output}"
                f" --endpoint {fake.endpoint} < names"
            )
            assert done.returncode == 3 and done.stderr.startswith("no\\xfe.jpg: E_READ: "), done.stderr
        table = pq.read_table(tmp_path / "x.parquet")
        assert table["image_path"].to_pylist() == expected
        rows = np.array(table["embedding"].to_pylist()[:4], np.float32)
        assert (rows == fake_embeddings(names)).all()
        lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["image_path"] for line in lines] == expected


def test_a_token_file_of_a_windows_editor_is_read_and_another_is_said_before_a_call(tmp_path):
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfsecret\r\n")
    (tmp_path / "utf16").write_bytes("secret".encode("utf-16"))
    with FakeServable(token="secret") as server:
        assert run("status", "--endpoint", server.endpoint, "--token-file", tmp_path / "bom").returncode == 0
        done = run("status", "--endpoint", server.endpoint, "--token-file", tmp_path / "utf16")
    assert done.returncode == 2 and "utf16 cannot be read" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status --endpoint {0}", 0),
        ("embed {1}/in --output-dir {2}/out --endpoint {0}", 0),
        ("embed {1}/in --output-dir {2}/out --engine processes --workers 2 --shard-size 2 --endpoint {0}", 0),
        ("verify --golden {3} --against {0} --endpoint {0}", 5),  # the fake is not the model
    ],
    ids=["status", "job", "job of two processes", "verify"],
)
def test_a_token_comes_from_a_pipe_also_where_a_command_makes_several_clients(made, tmp_path, command, code):
    with FakeServable(token="secret") as server:
        done = shell(f"{COMMAND} {command.format(server.endpoint, made, tmp_path, GOLDEN)} --token-file <(echo secret)")
    assert done.returncode == code and "token" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "a.jpg", "--output", "folder.npy"],
        ["embed", "a.jpg", "--output", "none/x.npy"],
        ["embed", "a.jpg", "--output-dir", "a.jpg"],
        ["embed", "a.jpg", "--output-dir", "a.jpg/out"],
        ["bench", "--csv", "folder.npy"],
        ["bench", "--csv", "none/x.csv"],
        ["golden", "record", "a.jpg", "--output", "folder.npy"],
        ["verify", "--golden", ".", "--output", "folder.npy"],
        ["evaluate", "out", "--report", "folder.npy"],
        ["evaluate", "out", "--report", "none/x.html"],
        ["evaluate", "out", "--plots", "a.jpg"],
        ["evaluate", "out", "--output", "none/x.json"],
        ["search", "a.jpg", "--index", "index", "--html", "folder.npy"],
        ["index", "build", "out", "--output", "folder.npy"],
        ["index", "build", "out", "--output", "a.jpg/index"],
    ],
    ids=" ".join,
)
def test_an_output_that_cannot_be_is_said_before_any_work(fake, tmp_path, made, arguments):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"a")
    for name in ("out", "index"):
        (tmp_path / name).symlink_to(made / name)
    connection = [] if arguments[0] in ("index", "evaluate") else ["--endpoint", fake.endpoint]
    done = run(*arguments, *connection, cwd=tmp_path)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    assert fake.calls == 0 and done.stdout == ""
    assert arguments[-1].split("/")[0] in done.stderr


@pytest.mark.parametrize("suffix", ["npy", "parquet", "jsonl"])
def test_a_disk_too_full_for_the_output_is_said_before_the_first_image_is_sent(fake, made, tmp_path, suffix):
    output = tmp_path / f"x.{suffix}"
    files = sorted((made / "in").glob("*/*.jpg"))
    done = run("embed", *files, "--endpoint", fake.endpoint, "--output", output, most_bytes=40_000)
    assert done.returncode == 1 and f"{output}: File too large: it will have up to 0." in done.stderr
    assert fake.calls == 0 and list(tmp_path.iterdir()) == []


def test_a_disk_too_full_for_an_index_is_one_line(made, tmp_path):
    done = run("index", "build", made / "out", "--output", tmp_path / "index", most_bytes=20_000)
    assert (done.returncode, done.stderr) == (1, f"metric-learn: {tmp_path}/index: File too large\n")
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_shown_also_where_their_report_cannot_be_written(made, tmp_path):
    line = ["evaluate", made / "out", "--label-from-folder", "--output", tmp_path / "x.json", "--json"]
    done = run(*line, most_bytes=100)
    assert done.returncode == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    "command",
    [
        "evaluate {made}/out --label-from-folder --output",
        "evaluate {made}/out --label-from-folder --report",
        "search --index {made}/index --stored {made}/in/a/0.jpg --html",
        "verify --golden {golden} --endpoint {endpoint} --output",
        "bench --endpoint {endpoint} --measurement-interval-s 0.1 --stability-percentage 100 --csv",
    ],
    ids=lambda command: f"{command.split()[0]} {command.split()[-1]}",
)
def test_a_result_file_is_whole_and_an_error_names_it(made, fake, tmp_path, command):
    arguments = command.format(made=made, golden=GOLDEN, endpoint=fake.endpoint).split()
    (tmp_path / "x").write_text("old")
    done = run(*arguments, tmp_path / "x", most_bytes=20)
    assert done.returncode == 1 and f"{tmp_path}/x: File too large" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "old"
    done = run(*arguments, "/dev/full")
    assert done.returncode == 1 and f"/dev/full: {FULL}" in done.stderr, done.stderr
    done = run(*arguments, tmp_path / "x")
    assert done.returncode in (0, 5) and len((tmp_path / "x").read_text()) > 20, done.stderr


def test_a_result_goes_to_a_device_and_where_a_link_points(tmp_path):
    (tmp_path / "kept").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "kept").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit((tmp_path / "pipe").read_text)
        write_text(tmp_path / "pipe", "through")
        assert read.result(10) == "through"


def once(error):
    """Writes b"rows", but not at the first call."""
    left = [error]

    def write(file):
        if left:
            raise left.pop()
        file.write(b"rows")

    return write


def test_what_cannot_be_written_in_its_place_is_written_elsewhere_and_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    with pytest.raises(OutputFileError, match=f"x.npy: {FULL}; it is in .*/x.npy instead") as caught:
        WholeFile(tmp_path / "x.npy").write(once(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    (kept,) = (tmp_path / "elsewhere").glob("*/x.npy")
    assert kept.read_bytes() == b"rows" and str(kept) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_lines_that_were_written_before_the_disk_was_full_are_kept_and_named(tmp_path):
    def write():
        with WholeFile(tmp_path / "x.jsonl").writing() as file:
            file.write(b"line\n")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputFileError) as caught:
        write()
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == b"line\n" and f"what was written is in {kept}" in str(caught.value)


def test_an_output_of_another_kind_is_refused_with_its_reason(tmp_path):
    assert why_not(tmp_path / "x") is None and "it is a folder" in why_not(tmp_path)
    assert "no such folder" in why_not(tmp_path / "none" / "x")
    assert why_not(Path("/dev/null")) is None


def test_a_working_directory_that_is_gone_is_one_line(fake, tmp_path):
    for command in (
        f"embed {tmp_path} --output-dir out --endpoint {fake.endpoint}",
        f"index build {tmp_path} --output x",
    ):
        done = shell(f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && {COMMAND} {command}")
        said = "metric-learn: the working directory is not there any more; change to another\n"
        assert (done.returncode, done.stderr) == (1, said)
