"""A trained checkpoint file -> the backbone's parameters, checked one by one. Nothing is guessed or filled in."""

from __future__ import annotations

import codecs
import contextlib
import fnmatch
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import numpy.typing as npt

from export.errors import ExportError, UnusableInputError
from export.network import ResNet50, Weights
from metric_learn_client.contract.digests import file_sha256


@dataclass(frozen=True)
class Checkpoint:
    """weights: the 265 backbone parameters by name; skipped: names of the extras that were left out."""

    weights: Weights
    skipped: tuple[str, ...]
    sha256: str


def weights_digest(weights: Weights) -> str:
    """sha256 over names, shapes and float32 values in name order: the same weights in any file give the same."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}:{'x'.join(map(str, weights[name].shape))}\n".encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return digest.hexdigest()


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of the backbone's parameters, from the network itself."""
    return {parameter.name: tuple(parameter.shape) for parameter in ResNet50().get_parameters()}


def read_checkpoint(path: Path, expected_extras: tuple[str, ...], allow_extras: bool = False) -> Checkpoint:
    """Reads and checks a checkpoint. Raises UnusableInputError with the parameter's name where anything does not fit.

    A file `<path>.sha256` beside it (as sha256sum writes it) must agree with the bytes.
    """
    if path.is_dir():
        raise UnusableInputError(f"{path} is a directory; give the checkpoint file (*.ckpt)")
    if not path.is_file():
        raise UnusableInputError(f"{path}: no such file; `python -m export fetch` or `stand-in` makes one")
    sha256 = file_sha256(path)
    _check_sidecar(path, sha256)
    values = _load(path)
    weights: Weights = {}
    for name, shape in expected_shapes().items():
        if name not in values:
            raise UnusableInputError(f"{path.name}: parameter {name} is missing; this is not a metric_learn checkpoint")
        value = values.pop(name)
        if value.dtype != np.float32:
            raise UnusableInputError(f"{path.name}: parameter {name} is {value.dtype}; it must be float32")
        if value.shape != shape:
            raise UnusableInputError(f"{path.name}: parameter {name} has shape {value.shape}; it must be {shape}")
        if not np.isfinite(value).all():
            raise UnusableInputError(f"{path.name}: parameter {name} holds a value that is not finite")
        weights[name] = np.asarray(value, np.float32)
        if name.endswith("moving_variance") and (weights[name] < 0).any():
            raise UnusableInputError(f"{path.name}: parameter {name} holds a negative value, which no variance is")
    unknown = [n for n in values if not any(fnmatch.fnmatchcase(n, pattern) for pattern in expected_extras)]
    if unknown and not allow_extras:
        raise UnusableInputError(
            f"{path.name}: unknown parameter {unknown[0]} ({len(unknown)} in all); "
            "--allow-extra-parameters leaves them out"
        )
    return Checkpoint(weights, tuple(sorted(values)), sha256)


def stand_in_weights() -> Weights:
    """Weights drawn from each parameter's name, for tests and for machines without the published checkpoint.

    They embed nothing learned: retrieval with them says nothing of the model's quality.
    """
    return {name: _draw(name, shape) for name, shape in expected_shapes().items()}


def write_checkpoint(weights: Weights, path: Path) -> None:
    """A MindSpore checkpoint file, with its digest beside it."""
    aside = path.with_name(f".{path.stem}.partial.ckpt")
    parameters = [{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()]
    try:
        ms.save_checkpoint(parameters, str(aside))
        digest = file_sha256(aside)
        aside.chmod(0o644)
        aside.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}; free space or choose another --output") from error
    finally:
        aside.unlink(missing_ok=True)
    write_sidecar(path, digest)


def write_sidecar(path: Path, sha256: str) -> None:
    path.with_name(path.name + ".sha256").write_text(f"{sha256}  {path.name}\n")


def _check_sidecar(path: Path, sha256: str) -> None:
    sidecar = path.with_name(path.name + ".sha256")
    if not sidecar.is_file():
        return
    written = sidecar.read_bytes()  # by sha256sum, or by PowerShell: UTF-16 and upper case
    encoding = "utf-16" if written[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    said = written.decode(encoding, "replace").lower().split()[:1]
    if said != [sha256]:
        raise UnusableInputError(
            f"{path.name} is damaged: its sha256 is {sha256}, {sidecar.name} says {' '.join(said) or 'nothing'}; "
            "fetch or write the checkpoint again"
        )


def _load(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            parameters = ms.load_checkpoint(str(path))
    except Exception as error:  # MindSpore raises what its parser raises
        raise UnusableInputError(f"{path} is not a MindSpore checkpoint, or it is damaged") from error
    return {name: parameter.asnumpy() for name, parameter in parameters.items()}


def _draw(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("gamma"):
        value = rng.uniform(0.5, 1.0, shape) * (0.5 if "bn3" in name else 1.0)
    elif name.endswith(("beta", "moving_mean")):
        value = rng.normal(0, 0.1, shape)
    elif name.endswith("moving_variance"):
        value = rng.uniform(0.5, 1.5, shape)
    else:  # convolutions
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    return value.astype(np.float32)
