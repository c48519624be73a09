"""`metric-learn index`: build, near-duplicates, export to Milvus."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from metric_learn_client.cli.shared.embeddings_option import Embeddings
from metric_learn_client.cli.shared.field_options import NumberRange
from metric_learn_client.cli.shared.output_file import OutputFolder
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.evaluation.embedding_set import EmbeddingSetError, read_embedding_set
from metric_learn_client.evaluation.similarity import rows_of
from metric_learn_client.printable import printable
from metric_learn_client.search.index import KINDS, SearchIndexError, build_index


@click.group(name="index", help="Search indexes over a job's embeddings.")
def command() -> None:
    pass


@command.command(name="build", help="Build an index of EMBEDDINGS, the output of `embed --output-dir`.")
@click.argument("embeddings", type=Embeddings())
@click.option("--output", required=True, type=OutputFolder(), help="a new directory")
@click.option("--kind", type=click.Choice(KINDS), default="exact", show_default=True, help="FAISS Flat, IVF or HNSW")
@click.option(
    "--target-recall",
    type=NumberRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Recall@10 against exact that an approximate index must reach",
)
@click.option("--json", "as_json", is_flag=True, help="the facts of the index on stdout as JSON")
def build(embeddings: Path, output: Path, kind: Any, target_recall: float, as_json: bool) -> ExitCode:
    try:
        index = build_index(embeddings, kind, target_recall=target_recall)
        index.save(output)
    except (SearchIndexError, EmbeddingSetError) as error:
        raise click.UsageError(str(error)) from error
    facts = index.facts
    measured = f"Recall@10 against exact {facts.recall_at_10:.4f} over {facts.recall_queries:,} queries"
    if as_json:
        click.echo(json.dumps(asdict(facts), indent=2))
    else:
        click.echo(
            f"{output}: {facts.count:,} images, {facts.dim} dimensions, {kind}, "
            f"fingerprint {(facts.fingerprint or 'unknown')[:16]}"
        )
        if kind != "exact":
            click.echo(f"{measured} ({'nprobe' if kind == 'ivf' else 'efSearch'} {facts.breadth})")
    if facts.recall_at_10 < target_recall:
        click.echo(f"FAIL: {measured} is below --target-recall {target_recall:g}", err=True)
        return ExitCode.GATE_FAILED
    return ExitCode.DONE


@command.command(name="duplicates", help="Report near-duplicate images of EMBEDDINGS.")
@click.argument("embeddings", type=Embeddings())
@click.option(
    "--threshold",
    type=NumberRange(0, 1, min_open=True),
    default=0.98,
    show_default=True,
    help="cosine similarity from which two images count as near-duplicates; depends on the weights",
)
@click.option("--json", "as_json", is_flag=True, help="the groups on stdout as JSON")
def duplicates(embeddings: Path, threshold: float, as_json: bool) -> ExitCode:
    from metric_learn_client.search.duplicates import near_duplicates

    try:
        found = read_embedding_set(embeddings)
        groups = near_duplicates(rows_of(found.embeddings), threshold)
    except (EmbeddingSetError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    paths = found.paths
    if as_json:
        listed = [
            {"least_similarity": group.least, "paths": [printable(paths[row]) for row in group.rows]}
            for group in groups
        ]
        click.echo(json.dumps({"threshold": threshold, "images": len(found), "groups": listed}, indent=2))
        return ExitCode.DONE
    for group in groups:
        click.echo(f"{len(group.rows)} images, least similarity {group.least:.5f}")
        for row in group.rows:
            click.echo(f"  {printable(paths[row])}")
    extra = sum(len(group.rows) - 1 for group in groups)
    click.echo(f"{len(groups):,} groups; {extra:,} of {len(found):,} images repeat another one at {threshold:g}")
    return ExitCode.DONE


@command.command(name="milvus", help="Write EMBEDDINGS into a new Milvus collection.")
@click.argument("embeddings", type=Embeddings())
@click.option("--uri", required=True, help="server, or the path of a Milvus Lite file ending in .db")
@click.option("--collection", required=True, help="its name; it must not exist")
@click.option("--token", default="", envvar="MILVUS_TOKEN", show_envvar=True, help="where the server wants one")
def milvus(embeddings: Path, uri: str, collection: str, token: str) -> ExitCode:
    from metric_learn_client.search.milvus import MilvusExportError, export_to_milvus

    try:
        count = export_to_milvus(embeddings, uri, collection, token=token)
    except ModuleNotFoundError as error:
        raise click.UsageError(f"index milvus needs {error.name}: pip install 'metric-learn-client[milvus]'") from error
    except (MilvusExportError, EmbeddingSetError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{count:,} rows in collection {collection} of {uri}")
    return ExitCode.DONE
