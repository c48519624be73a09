"""`metric-learn embed FILES`: image files, in the order given, to one array, table or text of lines.

Failed files are listed on stderr and have a row of NaN (npy), a null (parquet) or a line with their error (jsonl).
An output file appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Optional, Union

import click
import numpy as np
import numpy.typing as npt

from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client._client.progress import progress_bar
from metric_learn_client.cli.shared.output_file import WholeFile, why_not
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.errors import ImageFailure, RejectedError
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.text import stdin_lines
from metric_learn_client.printable import escaped, printable
from metric_learn_client.results import Row
from metric_learn_client.wire import EMBEDDING_DIM

# Bytes of a row at most, by format; a number in JSON has up to 22 characters.
_ROW_BYTES = {".npy": 4 * EMBEDDING_DIM + 1, ".parquet": 4 * EMBEDDING_DIM + 8192, ".jsonl": 24 * EMBEDDING_DIM + 8192}
_FORMATS = tuple(_ROW_BYTES)
_STDIN = "-"

Answer = Union[Row, ImageFailure]


def embed_files(files: Sequence[str], output: Optional[str], client: EmbeddingClient) -> ExitCode:
    """Embeds the files; "-" reads their names from stdin, as a job's list has them. output None: JSON lines on stdout.

    Raises click.ClickException for an output of another kind, no files at all, or names that are none; what
    EmbeddingClient raises.
    """
    kind = check_output(output)
    names = list(_names(files))
    if not names:
        raise click.UsageError("no image files: name some, or '-' to read names from stdin")
    answers = _answers(names, client)
    if output is None:
        failures = _write_lines(sys.stdout.buffer, names, answers)
        sys.stdout.buffer.flush()
    else:
        file = WholeFile(Path(output), len(names) * _ROW_BYTES[kind])
        try:
            failures = _write(file, kind, names, answers, client)
        except BaseException:  # the service's failure, an interruption
            file.discard()
            raise
    for failure in failures:
        click.echo(f"{printable(names[failure.index])}: {failure.code}: {failure.message}", err=True)
    if failures:
        click.echo(f"{len(failures)} of {len(names)} images failed", err=True)
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


def check_output(output: Optional[str]) -> str:
    """The output's format by its suffix, ".jsonl" for stdout. Raises click.UsageError."""
    kind = ".jsonl" if output is None else os.path.splitext(output)[1]
    if kind not in _FORMATS:
        raise click.UsageError(f"--output {output}: must end in {', '.join(_FORMATS)}")
    problem = None if output is None else why_not(Path(output))
    if problem is not None:
        raise click.UsageError(f"--output {problem}")
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
        if name == _STDIN:
            try:
                yield from filter(None, stdin_lines())
            except InputError as error:
                raise click.ClickException(str(error)) from error
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


def _write(
    file: WholeFile, kind: str, names: Sequence[str], answers: Iterator[Answer], client: EmbeddingClient
) -> list[ImageFailure]:
    if kind == ".jsonl":
        with file.writing() as lines:
            return _write_lines(lines, names, answers)
    # Before the first image: whatever becomes of the server, nothing that was embedded is lost for want of its name.
    # The client refuses rows of another model.
    identity = _identity(client) if kind == ".parquet" else {}
    embeddings = np.zeros((len(names), EMBEDDING_DIM), np.float32)
    failures = _fill(embeddings, answers)
    failed = [failure.index for failure in failures]
    if kind == ".npy":
        embeddings[failed] = np.nan
        file.write(lambda to: np.save(to, embeddings))
    else:
        import pyarrow.parquet as pq

        table = _table(names, embeddings, failures).replace_schema_metadata(identity)
        file.write(lambda to: pq.write_table(table, to))
    return failures


def _table(names: Sequence[str], embeddings: npt.NDArray[np.float32], failures: Sequence[ImageFailure]) -> Any:
    import pyarrow as pa

    failed = {failure.index: failure for failure in failures}
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)),
        EMBEDDING_DIM,
        mask=pa.array([index in failed for index in range(len(names))]),
    )
    errors = [failed.get(index) for index in range(len(names))]
    return pa.table(
        {
            "image_path": pa.array([escaped(name) for name in names], pa.string()),
            "embedding": column,
            "code": pa.array([error.code if error else None for error in errors], pa.string()),
            "message": pa.array([printable(error.message) if error else None for error in errors], pa.string()),
        }
    )


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
        line: dict[str, Any] = {"image_path": escaped(name)}
        if isinstance(answer, ImageFailure):
            failures.append(answer)
            line.update(code=answer.code, message=printable(answer.message))
        else:
            line["embedding"] = answer.tolist()
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return failures
