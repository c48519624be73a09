"""Every command with random arguments, files and standard input: an exit code of the table, and no traceback.

METRIC_LEARN_TRACEBACK makes an error that no command expects come out as it is, and so fail the test. The seed and the
arguments are in the test's output.
"""

import io
import json
import os
import random
import shutil
import sys

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client import cli
from metric_learn_client.jobs import embed_dataset
from metric_learn_client.testing import FakeServable, Faults

CODES = {0, 1, 2, 3, 4, 5}
NUMBERS = ["-1", "0", "1", "2", "3", "7", "64", "0.5", "0.999", "1e-9", "nan", "inf", "", "x", "1:3:1", "9" * 30]
TEXTS = ["", " ", "x", "label", "image_path", "a,b", "--", "-", "\udcff", "é\n", "*.jpg", "[", "{0..3}", "a" * 300]
KEPT_SHORT = {  # waiting is not what is tested
    "bench": ["--measurement-interval-s", "0.05", "--max-windows", "3", "--warmup-request-count", "1"],
    "status": ["--wait-s", "0.1"],
}
OFTEN = {  # what a command needs to get far
    "evaluate": ["--label-from-folder"],
    "embed": ["--output-dir", "new", "--max-outage-s", "0.1", "--batch-size", "2"],
    "verify": ["--golden", "golden"],
}
FITTING = {  # what a command is for; named more often than the rest
    "embed": ["pictures", "pictures/a/0.jpg", "list.txt", "labels.txt", "list.csv", "x.tar", "x.parquet", "-"],
    "job": ["job-npy", "job-parquet"],
    "index": ["job-npy", "job-parquet", "rows.npy", "x.parquet", "nulls.parquet"],
    "evaluate": ["job-npy", "job-parquet", "rows.npy", "x.parquet", "nulls.parquet"],
    "search": ["pictures/a/0.jpg", "pictures/b/1.jpg"],
    "golden": ["pictures/a", "pictures/b/0.jpg"],
    "bench": ["pictures/a/0.jpg"],
}
OPTIONS_FITTING = {"--index": "index", "--output-dir": "new", "--output": "new.npy", "--gallery": "job-npy"}
LEFT_OUT = {"--engine", "--help", "--measurement-interval-s", "--max-windows", "--wait-s", "--max-outage-s", "--uri"}
LEFT_OUT |= {"--warmup-request-count", "--workers", "--request-rate-range", "--deadline-s", "--ray-address"}


def commands():
    """(words, click command) of all that can be run."""
    context = click.Context(cli.cli)
    for name in cli.COMMANDS:
        command = cli.cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from (([name, each], inner) for each, inner in command.commands.items())
        else:
            yield [name], command


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A folder with something of every kind that a user might name, whole and damaged."""
    folder = tmp_path_factory.mktemp("things")
    pictures = folder / "pictures"
    for label in "ab":
        (pictures / label).mkdir(parents=True)
        for number in range(4):
            (pictures / label / f"{number}.jpg").write_bytes(b"picture %d" % number + label.encode())
    with FakeServable() as server:
        for kind in ("npy", "parquet"):
            embed_dataset(str(pictures), folder / f"job-{kind}", endpoint=server.endpoint, output_format=kind)
        rows = np.load(folder / "job-npy" / "img_emb" / "img_emb_00000.npy")
        picture = str(pictures / "a" / "0.jpg")
        line = ["golden", "record", picture, "--output", str(folder / "golden"), "--endpoint", server.endpoint]
        assert cli.run(line) == 0
    assert cli.run(["index", "build", str(folder / "job-npy"), "--output", str(folder / "index")]) == 0
    np.save(folder / "rows.npy", rows)
    np.save(folder / "text.npy", np.array(["a", "b"]))
    np.save(folder / "flat.npy", rows[0])
    pq.write_table(pa.table({"image_path": ["a"], "label": [1], "embedding": [rows[0].tolist()]}), folder / "x.parquet")
    pq.write_table(pa.table({"image_path": [None], "embedding": [None]}), folder / "nulls.parquet")
    for name, content in {
        "empty": b"",
        "corrupt.jpg": b"corrupt",
        "list.txt": b"pictures/a/0.jpg\nnone.jpg\n\xff.jpg\n\n",
        "labels.txt": b"pictures/a/0.jpg 1\npictures/b/0.jpg 2\n",
        "list.csv": b"path,label\npictures/a/0.jpg,a\n",
        "utf16.txt": "pictures/a/0.jpg\r\n".encode("utf-16"),
        "x.json": b"{",
        "x.npy": b"\x93NUMPY\x01\x00",
        "y.parquet": b"PAR1 and then nothing",
        "x.tar": b"\0" * 700,
        "token": b"secret\n",
        "bom": b"\xef\xbb\xbfsecret",
        "key.pem": b"-----BEGIN NOTHING-----\n",
    }.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere")
    with open(os.path.join(os.fsencode(folder), b"\xff.jpg"), "wb") as file:
        file.write(b"not a text's name")
    return folder


def damaged(folder, source, dice):
    """A copy of a job's output or an index, with one file cut, emptied, filled with noise or removed."""
    copy = folder / "damaged"
    shutil.copytree(source, copy)
    victim = dice.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
    content = victim.read_bytes()
    spoiled = dice.choice([b"", content[: len(content) // 2], dice.randbytes(len(content) or 1), b"{}", None])
    victim.unlink()
    if spoiled is not None:
        victim.write_bytes(spoiled)
    return copy


def arguments(words, command, folder, endpoint, dice):
    paths = [os.fsdecode(path) for path in sorted(os.listdir(os.fsencode(folder)))]
    paths += ["-", "none/none", "pictures/a/0.jpg", "/dev/null", "/dev/full", "new"]
    fitting = FITTING.get(words[0], paths)
    if dice.random() < 0.4:
        damaged(folder, folder / dice.choice(["job-npy", "job-parquet", "index", "golden"]), dice)
        fitting = [*fitting, *["damaged"] * 3]

    def value(parameter):
        kind = parameter.type
        if isinstance(kind, click.Choice) and dice.random() < 0.9:
            return dice.choice(list(kind.choices))
        if isinstance(kind, click.Path):
            likely = OPTIONS_FITTING.get(parameter.opts[0])
            return likely if likely and dice.random() < 0.7 else dice.choice(paths)
        if parameter.name == "endpoint":
            return dice.choice([endpoint] * 6 + ["127.0.0.1:1", "nonsense", "unix:/none", ""])
        return dice.choice(NUMBERS if "INT" in kind.name.upper() or "FLOAT" in kind.name.upper() else TEXTS + NUMBERS)

    line = [*words, *KEPT_SHORT.get(words[0], [])]
    if dice.random() < 0.7:
        line += OFTEN.get(words[0], [])
    takes_endpoint = False
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            count = dice.choice([1, 1, 1, 2, 3]) if parameter.nargs == -1 else 1
            line += [dice.choice(fitting if dice.random() < 0.8 else paths) for _ in range(count)]
            continue
        name = parameter.opts[0]
        takes_endpoint = takes_endpoint or name == "--endpoint"
        if name in LEFT_OUT or name in line or dice.random() > (0.95 if parameter.required else 0.08):
            continue
        line += [name] if parameter.is_flag else [name, value(parameter)]
    if takes_endpoint:
        line += ["--deadline-s", "2"] + ([] if "--endpoint" in line else ["--endpoint", endpoint])
    return line


def try_out(things, tmp_path, monkeypatch, seed):
    dice = random.Random(seed)
    folder = tmp_path / str(seed)
    shutil.copytree(things, folder, symlinks=True, ignore=lambda _, names: [name for name in names if name == "pipe"])
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    every = list(commands())
    words, command = every[seed % len(every)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(dice.randbytes(dice.choice([0, 5, 300]))), "utf-8"))
    faults = [Faults()] * 6 + [Faults(status="INTERNAL"), Faults(missing_rows=1), Faults(in_band=(3, "E_SHAPE: x"))]
    with FakeServable(faults=dice.choice(faults)) as server:
        line = arguments(words, command, folder, server.endpoint, dice)
        print(seed, json.dumps(line))
        try:
            code = cli.run(line)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {line}") from error
    print("exit", words, code)
    assert code in CODES, (seed, line, code)
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def tracebacks(monkeypatch):
    monkeypatch.setenv("METRIC_LEARN_TRACEBACK", "1")
    monkeypatch.setattr("metric_learn_client._client.token.PIPE_S", 0.1)


def test_every_command_survives_random_arguments(things, tmp_path, monkeypatch):
    for seed in (*range(39), 1612, 2820, 3355):  # three times every command; and what once failed or filled the memory
        try_out(things, tmp_path, monkeypatch, seed)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1000, 4000, 500))
def test_every_command_survives_thousands_of_random_arguments(things, tmp_path, monkeypatch, first):
    for seed in range(first, first + 500):
        try_out(things, tmp_path, monkeypatch, seed)
