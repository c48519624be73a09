"""`metric-learn evaluate`: retrieval metrics of a job's embeddings, with their protocol, a verdict and a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click

from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.cli.shared.embeddings_option import Embeddings
from metric_learn_client.cli.shared.field_options import NumberRange
from metric_learn_client.cli.shared.output_file import OutputFile, write_text
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.evaluation.embedding_set import EmbeddingSet, EmbeddingSetError, read_embedding_set
from metric_learn_client.evaluation.evaluation import Evaluation, as_text, evaluate
from metric_learn_client.evaluation.labelled_images import embed_labelled, read_labelled
from metric_learn_client.evaluation.metrics import DEFAULT_KS
from metric_learn_client.evaluation.protocol import (
    SOP_LISTS,
    ProtocolError,
    labels_of,
    read_sop_list,
    select_sop,
    sop_protocol,
)
from metric_learn_client.evaluation.ranking import DEFAULT_MEMORY_MB

PATH = click.Path(path_type=Path)
FOLDER = click.Path(file_okay=False, writable=True, path_type=Path)


@click.command(
    name="evaluate",
    help="Recall@K, R-precision and MAP@R of EMBEDDINGS: the output of `embed --output-dir`, or one .parquet file.",
)
@click.argument("embeddings", type=Embeddings(), required=False)
@click.option("--images", type=PATH, help="embed these on the way: a folder of class folders, or lines of `path label`")
@click.option(
    "--gallery", type=Embeddings(), help="embeddings to rank; without it, the queries' own, each without itself"
)
@click.option("--protocol", type=click.Choice(list(SOP_LISTS)), help="a list of Stanford Online Products")
@click.option("--sop-list", type=PATH, help="Ebay_test.txt of the data set, for --protocol")
@click.option("--label-column", help="column with the class  [default: label, class_id or class]")
@click.option("--label-from-folder", is_flag=True, help="the class is the name of the image's folder")
@click.option(
    "--k",
    "ks",
    type=click.IntRange(1),
    multiple=True,
    default=DEFAULT_KS,
    show_default=True,
    help="K of Recall@K; may be given several times",
)
@click.option("--min-recall-at-1", type=NumberRange(0, 1), help="exit 5 below this")
@click.option("--memory-mb", type=click.IntRange(16), default=DEFAULT_MEMORY_MB, show_default=True, help="for a block")
@click.option("--faiss", is_flag=True, help="rank by FAISS in float32 in place of the exact order")
@click.option("--report", type=OutputFile(), help="x.html: a self-contained page")
@click.option("--plots", "plots_folder", type=FOLDER, help="folder for recall.png, similarity.png, norms.png")
@click.option("--image-root", type=PATH, help="where relative image paths begin, for the report's pictures")
@click.option("--output", type=OutputFile(), help="x.json: all numbers")
@click.option("--json", "as_json", is_flag=True, help="the numbers on stdout as JSON")
@endpoint_options
def command(
    embeddings: Optional[Path],
    images: Optional[Path],
    gallery: Optional[Path],
    protocol: Optional[str],
    sop_list: Optional[Path],
    label_column: Optional[str],
    label_from_folder: bool,
    ks: tuple[int, ...],
    min_recall_at_1: Optional[float],
    memory_mb: int,
    faiss: bool,
    report: Optional[Path],
    plots_folder: Optional[Path],
    image_root: Optional[Path],
    output: Optional[Path],
    as_json: bool,
    **connection: Any,
) -> ExitCode:
    if (embeddings is None) == (images is None):
        raise click.UsageError("give EMBEDDINGS, or --images to embed on the way")
    if (protocol is None) != (sop_list is None):
        raise click.UsageError("--protocol and --sop-list go together")
    if protocol is not None and gallery is not None:
        raise click.UsageError("--protocol ranks a set against itself; leave --gallery out")
    if images is not None and gallery is None and label_column is not None:
        raise click.UsageError(
            "--label-column names one of EMBEDDINGS or --gallery; the classes of --images are in its folders or lines"
        )
    chosen = sop_protocol(protocol) if protocol is not None else None
    try:
        if images is not None:
            labels: Sequence[Any]
            with open_client(**connection) as client:
                queries, labels = embed_labelled(client, read_labelled(images), str(images))
        else:
            assert embeddings is not None
            queries = read_embedding_set(embeddings)
            if sop_list is None or protocol is None:
                labels = labels_of(queries, label_column, label_from_folder)
        if sop_list is not None and protocol is not None:
            rows, labels = select_sop(queries, read_sop_list(sop_list, protocol))
            queries = queries.take(rows)
        ranked = read_embedding_set(gallery) if gallery is not None else None
        ranked_labels = labels_of(ranked, label_column, label_from_folder) if ranked is not None else None
        _same_model(queries, ranked)
        made = evaluate(
            queries,
            labels,
            ranked,
            ranked_labels,
            protocol=chosen,
            ks=ks,
            memory_mb=memory_mb,
            faiss=faiss,
            least_recall_at_1=min_recall_at_1,
        )
    except (EmbeddingSetError, ProtocolError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(
        json.dumps(made.as_dict(), indent=2) if as_json else as_text(made)
    )  # first: a full disk takes no numbers
    _write(made, report, plots_folder, output, image_root)
    return ExitCode.DONE if made.passed else ExitCode.GATE_FAILED


def _same_model(queries: EmbeddingSet, gallery: Optional[EmbeddingSet]) -> None:
    if gallery is None:
        return
    ours, theirs = queries.identity.fingerprint, gallery.identity.fingerprint
    if ours and theirs and ours != theirs:
        raise EmbeddingSetError(
            f"queries are of model {ours[:16]}, the gallery of {theirs[:16]}; their distances mean nothing"
        )


def _write(
    made: Evaluation,
    report: Optional[Path],
    plots_folder: Optional[Path],
    output: Optional[Path],
    image_root: Optional[Path],
) -> None:
    if report is not None or plots_folder is not None:
        from metric_learn_client.evaluation.report.plots import save_plots
        from metric_learn_client.evaluation.report.report import make_plots, report_page
        from metric_learn_client.evaluation.report.thumbnails import Pictures

        drawn = make_plots(made)
        if plots_folder is not None:
            save_plots(drawn, plots_folder)
        if report is not None:
            pictures = Pictures(image_root)
            write_text(report, report_page(made, drawn, pictures))
            click.echo(f"report: {report}", err=True)
            if lacking := pictures.missing():
                click.echo(lacking, err=True)
    if output is not None:
        write_text(output, json.dumps(made.as_dict(), indent=2) + "\n")
