"""A set of images that the fake servable takes, the job as users start it, and what it left, as digests."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from metric_learn_client.jobs import embed_dataset
from metric_learn_client.jobs.output.output import open_output
from metric_learn_client.jobs.output.shard_files import read_shard, read_stats
from tests.integration.client.commands import Command

SHARD, BATCH, AHEAD = 50, 10, 4  # rows of a shard; images of a call; calls on their way (in flight and read ahead)
FLAGS = ("--shard-size", SHARD, "--batch-size", BATCH, "--in-flight", 2, "--read-threads", 2)
FEW = {"shard_size": SHARD, "batch_size": BATCH, "in_flight": 2, "read_threads": 2}


class Job:
    """`metric-learn embed INPUT --output-dir OUT` against one endpoint."""

    def __init__(self, images, out, endpoint, *flags):
        self.out = Path(out)
        self.arguments = ["embed", str(images), "--output-dir", str(out), "--endpoint", endpoint, "--json"]
        self.arguments += [str(flag) for flag in flags]

    def start(self, *flags, streams=None, prefix=()):
        """prefix: the start of a command line that the job's continues."""
        if not prefix:
            return Command([*self.arguments, *flags], streams=streams)
        command = [*prefix, str(Path(sys.executable).with_name("metric-learn")), *self.arguments, *flags]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *flags, timeout=120, prefix=()):
        """(exit code, events, stderr)"""
        with self.start(*flags, prefix=prefix) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return process.returncode, [json.loads(line) for line in out.splitlines()], err


def whole(images, out, endpoint):
    """What an uninterrupted run leaves, as `data`."""
    embed_dataset(images, out, endpoint=endpoint, shard_size=SHARD)
    return data(out)


def until(process, event):
    """Reads the job's lines up to an event of that name, and returns it."""
    for line in process.stdout:
        assert line.startswith("{"), f"not JSON: {line}"
        if json.loads(line)["event"] == event:
            return json.loads(line)
    raise AssertionError(f"no {event}: {process.stderr.read()}")


def kill(process):
    process.kill()
    process.communicate()


def data(out):
    """{name: digest} of everything that a job writes for others; its log of runs and its own folders are not."""
    files = (path for path in Path(out).rglob("*") if path.is_file())
    named = {str(path.relative_to(out)): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(named.items())
        if not name.startswith(".") and name != "runs.jsonl"
    }


def make_images(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:05d}.jpg").write_bytes(b"image %d" % index)
    return folder


def shard_contents(out):
    """What each shard of an output holds."""
    output = open_output(out)
    return [read_shard(output, read_stats(output, shard)) for shard in output.committed()]
