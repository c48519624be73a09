"""`metric-learn search`: the nearest images of query images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import click
import numpy as np

from metric_learn_client.cli.embed_files import without_name
from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.cli.shared.output_file import OutputFile, write_text
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.evaluation.report.pages import Result, item, search_page
from metric_learn_client.evaluation.report.thumbnails import Pictures
from metric_learn_client.printable import printable
from metric_learn_client.search.index import SearchIndex, SearchIndexError, check_fingerprint, load_index

PATH = click.Path(path_type=Path)


@click.command(name="search", help="Find the images of an index that are nearest to QUERY images.")
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option("--index", "folder", required=True, type=PATH, help="made by `metric-learn index build`")
@click.option("--stored", is_flag=True, help="each QUERY is an image_path of the index; no endpoint is asked")
@click.option("--k", type=click.IntRange(1), default=10, show_default=True, help="images for each query")
@click.option("--json", "as_json", is_flag=True, help="JSON, one line a query")
@click.option("--html", type=OutputFile(), help="x.html: a self-contained page with pictures")
@click.option("--image-root", type=PATH, help="where the index's relative paths begin, for the page's pictures")
@endpoint_options
def command(
    queries: tuple[str, ...],
    folder: Path,
    stored: bool,
    k: int,
    as_json: bool,
    html: Optional[Path],
    image_root: Optional[Path],
    **connection: Any,
) -> ExitCode:
    try:
        index = load_index(folder)
        k = min(k, index.facts.count)
        if stored:
            named, embeddings = list(queries), index.vectors(_rows_of(index, queries))
            failures: list[str] = []
        else:
            named, embeddings, failures = _embed(index, queries, connection)
        ids, similarity = index.search(embeddings, k) if named else (np.empty((0, k), int), np.empty((0, k)))
    except SearchIndexError as error:
        raise click.UsageError(str(error)) from error
    paths = index.paths
    found = [
        (query, [(paths[i], float(s)) for i, s in zip(row, values) if i >= 0])
        for query, row, values in zip(named, ids.tolist(), similarity)
    ]
    for query, neighbours in found:
        if as_json:
            listed = [{"path": printable(path), "similarity": value} for path, value in neighbours]
            click.echo(json.dumps({"query": printable(query), "neighbours": listed}))
        else:
            click.echo(printable(query))
            for path, value in neighbours:
                click.echo(f"  {value:.5f}  {printable(path)}")
    if html is not None:
        pictures = Pictures(image_root)
        queried = pictures if stored else Pictures()
        write_text(html, _page(index, found, queried, pictures))
        click.echo(f"page: {html}", err=True)
        for lacking in {each.missing() for each in (queried, pictures)} - {None}:
            click.echo(lacking, err=True)
    for failure in failures:
        click.echo(failure, err=True)
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


def _rows_of(index: SearchIndex, queries: tuple[str, ...]) -> list[int]:
    place = {path: row for row, path in enumerate(index.paths)}
    missing = [query for query in queries if query not in place]
    if missing:
        raise SearchIndexError(f"{printable(missing[0])!r} is not an image_path of the index")
    return [place[query] for query in queries]


def _embed(
    index: SearchIndex, queries: tuple[str, ...], connection: dict[str, Any]
) -> tuple[list[str], Any, list[str]]:
    """(queries that have an embedding, their embeddings, one line for each that has none)."""
    with open_client(**connection) as client:
        result = client.embed(queries, on_error="return")
    check_fingerprint(index.facts.fingerprint, result.fingerprint)
    named = ((printable(queries[each.index]), without_name(each, queries[each.index])) for each in result.errors)
    failures = [f"{name}: {failure.code}: {failure.message}" for name, failure in named]
    good = np.flatnonzero(result.ok).tolist()
    return [queries[n] for n in good], result.embeddings[good], failures


def _page(index: SearchIndex, found: list[Any], queried: Pictures, pictures: Pictures) -> str:
    results = [
        Result(item(queried, query), [item(pictures, path, value) for path, value in neighbours])
        for query, neighbours in found
    ]
    facts = index.facts
    about = (
        f"{facts.count:,} images, {facts.kind} index, cosine similarity, {facts.weights or 'unknown'} weights, "
        f"fingerprint {facts.fingerprint or 'unknown'}"
    )
    return search_page(about, results)
