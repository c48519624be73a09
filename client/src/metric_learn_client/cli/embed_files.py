"""`metric-learn embed FILES`: image files, in the order given, to one array, table or text of lines.

Failed files are listed on stderr and have a row of NaN (npy), a null (parquet) or a line with their error (jsonl).
An output file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Optional, Union

import click
import numpy as np

from metric_learn_client.client import EmbeddingClient
from metric_learn_client.errors import ImageFailure, RejectedError
from metric_learn_client.exit_codes import ExitCode
from metric_learn_client.progress import progress_bar
from metric_learn_client.results import Row
from metric_learn_client.wire import EMBEDDING_DIM

FORMATS = (".npy", ".parquet", ".jsonl")
STDIN = "-"

Answer = Union[Row, ImageFailure]


def embed_files(files: Sequence[str], output: Optional[str], client: EmbeddingClient) -> ExitCode:
    """Embeds the files; "-" reads their names from stdin, one a line. output None: JSON lines on stdout.

    Raises click.UsageError for an output of another kind, or no files at all; what EmbeddingClient raises.
    """
    kind = check_output(output)
    names = list(_names(files))
    if not names:
        raise click.UsageError("no image files: name some, or '-' to read names from stdin")
    answers = _answers(names, client)
    if kind == ".npy":
        failures = _write_npy(str(output), names, answers)
    elif kind == ".parquet":
        failures = _write_parquet(str(output), names, answers, client)
    elif output is not None:
        with _whole(output) as file:
            failures = _write_lines(file, names, answers)
    else:
        failures = _write_lines(sys.stdout.buffer, names, answers)
        sys.stdout.buffer.flush()
    for failure in failures:
        click.echo(f"{names[failure.index]}: {failure.code}: {failure.message}", err=True)
    if failures:
        click.echo(f"{len(failures)} of {len(names)} images failed", err=True)
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


def check_output(output: Optional[str]) -> str:
    """The output's format by its suffix, ".jsonl" for stdout. Raises click.UsageError."""
    kind = ".jsonl" if output is None else os.path.splitext(output)[1]
    if kind not in FORMATS:
        raise click.UsageError(f"--output {output}: must end in {', '.join(FORMATS)}")
    if output is not None and not os.path.isdir(os.path.dirname(output) or "."):
        raise click.UsageError(f"--output {output}: no such folder: {os.path.dirname(output)}")
    if kind == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise click.UsageError(
                "--output *.parquet needs pyarrow: pip install 'metric-learn-client[jobs]'"
            ) from error
    return kind


def _names(files: Sequence[str]) -> Iterator[str]:
    for name in files:
        if name == STDIN:
            yield from (line for line in (line.rstrip("\r\n") for line in sys.stdin) if line)
        else:
            yield name


def _answers(names: Sequence[str], client: EmbeddingClient) -> Iterator[Answer]:
    bar = progress_bar(len(names), sys.stderr.isatty())
    try:
        for answer in client.embed_iter(names, on_error="return"):
            bar.update(1)
            # the library names the file in the message of E_READ; here it stands before the message already
            yield answer if isinstance(answer, np.ndarray) else without_name(answer, names[answer.index])
    finally:
        bar.close()


def without_name(failure: ImageFailure, name: str) -> ImageFailure:
    """The failure as it is shown where the file's name stands before it."""
    prefix = f"{name}: "
    message = failure.message[len(prefix) :] if failure.message.startswith(prefix) else failure.message
    return ImageFailure(failure.index, failure.code, message)


def _write_npy(output: str, names: Sequence[str], answers: Iterator[Answer]) -> list[ImageFailure]:
    embeddings = np.full((len(names), EMBEDDING_DIM), np.nan, np.float32)
    failures = _fill(embeddings, answers)
    with _whole(output) as file:
        np.save(file, embeddings)
    return failures


def _write_parquet(
    output: str, names: Sequence[str], answers: Iterator[Answer], client: EmbeddingClient
) -> list[ImageFailure]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    embeddings = np.zeros((len(names), EMBEDDING_DIM), np.float32)
    failures = _fill(embeddings, answers)
    failed = {failure.index: failure for failure in failures}
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)),
        EMBEDDING_DIM,
        mask=pa.array([index in failed for index in range(len(names))]),
    )
    errors = [failed.get(index) for index in range(len(names))]
    table = pa.table(
        {
            "image_path": pa.array(names, pa.string()),
            "embedding": column,
            "code": pa.array([error.code if error else None for error in errors], pa.string()),
            "message": pa.array([error.message if error else None for error in errors], pa.string()),
        }
    )
    with _whole(output) as file:
        pq.write_table(table.replace_schema_metadata(_identity(client)), file)
    return failures


def _identity(client: EmbeddingClient) -> dict[str, str]:
    try:
        model = client.model()
    except RejectedError:  # a bare MindSpore Serving does not say what it serves
        return {}
    return {"metric_learn.fingerprint": model.fingerprint, "metric_learn.version": str(model.version)}


def _fill(embeddings: Any, answers: Iterator[Answer]) -> list[ImageFailure]:
    failures = []
    for index, answer in enumerate(answers):
        if isinstance(answer, ImageFailure):
            failures.append(answer)
        else:
            embeddings[index] = answer
    return failures


def _write_lines(file: BinaryIO, names: Sequence[str], answers: Iterator[Answer]) -> list[ImageFailure]:
    failures = []
    for name, answer in zip(names, answers):
        line: dict[str, Any] = {"image_path": name}
        if isinstance(answer, ImageFailure):
            failures.append(answer)
            line.update(code=answer.code, message=answer.message)
        else:
            line["embedding"] = answer.tolist()
        file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
    return failures


@contextlib.contextmanager
def _whole(output: str) -> Iterator[BinaryIO]:
    """A file beside the output that takes its name when all is written, and is removed otherwise."""
    handle, aside = tempfile.mkstemp(dir=os.path.dirname(output) or ".", prefix=f".{os.path.basename(output)}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)  # mkstemp's 0600 is not what a user expects of an output
        os.replace(aside, output)
    except BaseException:
        os.unlink(aside)
        raise
