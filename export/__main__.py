"""The command `python -m export`: fetch, stand-in, convert, verify, golden. Arguments and messages only."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

import click

from export.errors import ExportError, ParityError
from export.facts import REPOSITORY, model_facts
from metric_learn_client.cli.shared.output_file import OutputFolder
from metric_learn_client.contract.exit_codes import ExitCode
from servable.runtime.device_probe import FAMILIES
from servable.runtime.lite_config import LITE_PRECISION

VERSIONS = REPOSITORY / "servable" / "metric_learn"


def _say(message: str) -> None:
    click.echo(message, err=True)


@click.group(help="Turn a metric_learn checkpoint into MindIR files for MindSpore Serving.")
def cli() -> None:
    os.environ.setdefault("GLOG_v", "3")


@cli.command(name="fetch", help="Download the published checkpoint and check its sha256.")
@click.option("--output", type=click.Path(path_type=Path), help="default: .checkpoints/<its name>")
@click.option("--url", help="default: as configs/model.yaml says")
def fetch_command(output: Optional[Path], url: Optional[str]) -> None:
    from export.fetch import fetch

    facts = model_facts()
    output = output or REPOSITORY / ".checkpoints" / facts.published_file
    fetch(facts, output, url or facts.published_url)
    click.echo(str(output))


@cli.command(name="stand-in", help="Write a checkpoint with stand-in weights: for tests, never for retrieval.")
@click.option("--output", type=click.Path(path_type=Path), required=True)
def stand_in_command(output: Path) -> None:
    from export.checkpoint import stand_in_weights, write_checkpoint

    output.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(stand_in_weights(), output)
    _say("stand-in weights: good for tests, retrieval quality is not the model's")
    click.echo(str(output))


@cli.command(
    name="convert",
    help="Checkpoint -> MindIR files and manifest.json of one version. With --target, also those of an exported "
    "version -> offline models for this host's Ascend chip: a start then need not compile them.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="may be left out with --target: VERSION is there")
@click.option("--version", type=click.IntRange(1, 2**31 - 1), required=True)
@click.option("--directory", type=click.Path(path_type=Path), default=VERSIONS, help="default: servable/metric_learn")
@click.option("--allow-extra-parameters", is_flag=True, help="leave out parameters that are not known")
@click.option("--force", is_flag=True, help="replace the version, or its offline models, if they exist")
@click.option("--target", type=click.Choice(list(FAMILIES)), help="on an Ascend host, with its CANN: offline models")
@click.option(
    "--precision-mode",
    type=click.Choice(list(LITE_PRECISION)),
    default="force_fp16",
    show_default=True,
    help="of the offline models; backend.precision_mode must say the same",
)
@click.option("--aipp", is_flag=True, help="also models for backend.aipp, or the offline models of those")
@click.option("--batch-size", "batch_sizes", type=int, multiple=True, help="of the offline models; default: all")
def convert_command(
    checkpoint: Optional[Path],
    version: int,
    directory: Path,
    allow_extra_parameters: bool,
    force: bool,
    target: Optional[str],
    precision_mode: str,
    aipp: bool,
    batch_sizes: tuple[int, ...],
) -> None:
    folder = directory / str(version)
    if checkpoint is not None:
        _convert_checkpoint(checkpoint, folder, allow_extra_parameters, force, aipp)
    elif target is None:
        raise click.UsageError("give --checkpoint FILE, or --target for a version that is exported already")
    if target is not None:
        from export.offline import convert_for_device

        made = convert_for_device(folder.resolve(), target, precision_mode, batch_sizes, _say, aipp=aipp, force=force)
        sizes = ", ".join(str(model["batch_size"]) for model in made["models"])
        _say(f"version {version}: offline models for {made['soc_version']}, {precision_mode}, batch sizes {sizes}")
    click.echo(str(folder))


def _convert_checkpoint(checkpoint: Path, folder: Path, allow_extra: bool, force: bool, aipp: bool) -> None:
    from export.checkpoint import read_checkpoint
    from export.mindir import convert

    facts = model_facts()
    read = read_checkpoint(checkpoint, facts.expected_extras, allow_extra)
    if read.skipped:
        _say(f"left out {len(read.skipped)} parameters that are not the backbone's: {', '.join(read.skipped[:8])}")
    manifest = convert(read, checkpoint, folder, facts, force=force, progress=_say, aipp=aipp)
    _say(f"version {folder.name}: {manifest['weights']} weights, fingerprint {str(manifest['fingerprint'])[:16]}")


@cli.command(name="verify", help="Run every MindIR in the serving runtime and compare with the checkpoint.")
@click.option("--version", type=click.IntRange(1), required=True)
@click.option("--directory", type=click.Path(path_type=Path), default=VERSIONS, help="default: servable/metric_learn")
def verify_command(version: int, directory: Path) -> None:
    from export.verify import TOLERANCE, verify

    worst = verify(directory / str(version), _say)
    for batch, distance in worst.items():
        click.echo(f"batch {batch:>3}: worst relative distance {distance:.2e} (limit {TOLERANCE:.0e})")
    if max(worst.values()) > TOLERANCE:
        raise ParityError(f"version {version} is not the checkpoint's network; do not serve it")


@cli.command(name="golden", help="Record the checkpoint's embeddings of PICTURES, to verify a served model with.")
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=OutputFolder(), required=True, help="a new directory")
@click.option("--allow-extra-parameters", is_flag=True, help="leave out parameters that are not known")
@click.option("--references-only", is_flag=True, help="without the answers under network mistakes: four times as quick")
def golden_command(
    pictures: tuple[Path, ...], checkpoint: Path, output: Path, allow_extra_parameters: bool, references_only: bool
) -> None:
    from export.checkpoint import read_checkpoint
    from export.golden import record_golden

    files = [each for path in pictures for each in (sorted(path.iterdir()) if path.is_dir() else [path])]
    missing = [each for each in files if not each.is_file()]
    if missing or not files:
        raise click.UsageError(f"{missing[0] if missing else pictures[0]}: no such picture")
    facts = model_facts()
    read = read_checkpoint(checkpoint, facts.expected_extras, allow_extra_parameters)
    resolved = [each.resolve() for each in files]
    record_golden(read, resolved, output.resolve(), facts, _say, with_mistakes=not references_only)
    click.echo(str(output))


def main() -> None:
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except click.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except ExportError as error:
        _say(f"export: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        _say(f"export: {error.filename or ''}: {error.strerror}")
        sys.exit(ExitCode.UNEXPECTED)


if __name__ == "__main__":
    main()
