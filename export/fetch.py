"""Downloads the published checkpoint: resumes, checks the digest, appears whole or not at all."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from export.errors import ExportError, SourceUnreachableError, UnusableInputError
from export.facts import ModelFacts
from metric_learn_client.contract.digests import file_sha256

TIMEOUT_S = 30.0


def fetch(facts: ModelFacts, output: Path, url: str) -> None:
    """Downloads to `output`.

    Raises SourceUnreachableError, UnusableInputError on a wrong digest (nothing stays), ExportError.
    """
    from export.checkpoint import write_sidecar

    if output.is_file():
        if file_sha256(output) == facts.published_sha256:
            return
        raise UnusableInputError(f"{output} exists and is not the published checkpoint; move it away")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    try:
        _download(url, partial)
    except ValueError as error:
        raise UnusableInputError(f"--url {url}: {error}; write it whole, as https://HOST/FILE") from error
    except (urllib.error.URLError, socket.timeout, ConnectionError, http.client.HTTPException) as error:
        raise SourceUnreachableError(
            f"{url} cannot be reached ({getattr(error, 'reason', error)}); download it on another machine and "
            f"place it at {output} (sha256 {facts.published_sha256})"
        ) from error
    except OSError as error:
        raise ExportError(
            f"cannot write {partial}: {error.strerror}; free space, then fetch again: it resumes"
        ) from error
    digest = file_sha256(partial)
    if digest != facts.published_sha256:
        partial.unlink()
        raise UnusableInputError(f"what {url} sent has sha256 {digest}, not {facts.published_sha256}; it was deleted")
    partial.replace(output)
    write_sidecar(output, digest)


def _download(url: str, partial: Path) -> None:
    """Appends to `partial` what it lacks. Raises ConnectionError where the connection ends early; `partial` stays."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # everything was there already
            return
        raise
    output_name = partial.name[: -len(".partial")]
    with response:
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
        with (
            partial.open("ab" if resumed else "wb") as file,
            click.progressbar(  # type: ignore[var-annotated]
                length=total or None, label=output_name, file=click.get_text_stream("stderr")
            ) as bar,
        ):
            bar.update(have if resumed else 0)
            for block in _blocks(response):
                file.write(block)
                bar.update(len(block))
        received = partial.stat().st_size
    if received < total:
        raise ConnectionError(f"it ended after {received} of {total} bytes; fetch again: it resumes")


def _blocks(response: Any) -> Iterator[bytes]:
    """Raises ConnectionError where the connection stalls or breaks."""
    while True:
        try:
            block: bytes = response.read(1 << 20)
        except OSError as error:  # a stall is a TimeoutError from Python 3.10 on only
            raise ConnectionError(f"it broke off: {error}; fetch again: it resumes") from error
        if not block:
            return
        yield block
