"""The files of a shard are read back with nothing left of them in Arrow's threads."""

import io
import weakref
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metric_learn_client.jobs.output.directory import Directory
from metric_learn_client.jobs.output.shard_files import read_table


class Tracked(io.BytesIO):
    """A file that can be told to be gone."""


class Held(Directory):
    """An output of one table; `files` are those that were opened and are there still."""

    def __init__(self, table):
        super().__init__(Path("/nonexistent"))
        stream = io.BytesIO()
        pq.write_table(table, stream)
        self._content = stream.getvalue()
        self.files = weakref.WeakSet()

    def open(self, name, shard):  # noqa: ARG002  one file is enough
        file = Tracked(self._content)
        self.files.add(file)
        return file


def test_no_thread_of_arrows_holds_a_file_that_was_read():
    """One that drops it while the interpreter ends aborts the process."""
    table = pa.table({"code": ["E_READ", "E_DECODE"], "row": [1, 2]})
    output, left = Held(table), []
    for _ in range(300):
        assert read_table(output, "failures", 0, ["code"]).column(0).to_pylist() == ["E_READ", "E_DECODE"]
        left += output.files
        output.files.clear()
    assert len(left) == 0
    assert read_table(output, "failures", 0).equals(table)
