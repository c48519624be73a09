"""Servables with a mistake made on purpose: a copy of this repository's server code, patched, under the real server.

The preprocessing of the copy makes the mistake that a file names, so that one server serves all of them in turn. The
mistakes are written here, apart from the ones that the gate tries.
"""

import os
import shutil
import subprocess
from pathlib import Path

from . import conftest

PATCH = """

# --- a mistake made on purpose -------------------------------------------------------------------------------------
import sys
from concurrent.futures import Future

import cv2

sys.path.append({pillow!r})
_right_submit, _right_l2_normalize = _pool.submit, l2_normalize


def _mistake():
    with open({switch!r}) as file:
        return file.read().strip()


def _short(image, resize):
    factor = 224 / min(image.shape[:2])
    return resize(image, (int(round(image.shape[1] * factor)), int(round(image.shape[0] * factor))))


def _lanczos(image, size):
    return cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4)


def _pillow(image, size):
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize(size, Image.LANCZOS))


def _submit(image):
    future = Future()
    try:
        future.set_result(_mistaken(image.tobytes(), _right_submit(image).result()))
    except Exception as error:
        future.set_exception(error)
    return future


_pool.submit = _submit


def _mistaken(encoded, right):
    mistake = _mistake()
    if mistake == "rgb":
        return np.ascontiguousarray(right[:, :, ::-1])
    if mistake in ("none", "not-normalised"):
        return right
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if mistake == "exif-ignored" else 0)
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    if mistake == "one-bilinear-resize":
        return cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR)
    if mistake == "centre-crop":
        short = _short(image, _lanczos)
        top, left = (short.shape[0] - 224) // 2, (short.shape[1] - 224) // 2
        return np.ascontiguousarray(short[top : top + 224, left : left + 224])
    short = _short(image, _pillow if mistake == "pillow-lanczos" else _lanczos)
    return cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR)


def l2_normalize(instances):
    if _mistake() != "not-normalised":
        yield from _right_l2_normalize(instances)
    else:
        for (ticket,) in instances:
            yield pack_rows(*_runs.redeem(int(ticket[0])))
"""


def copy_of_the_server(folder, switch):
    """A copy that makes the mistake named in the file `switch`."""
    for name in ("servable", "configs"):
        shutil.copytree(
            conftest.REPOSITORY / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", "[0-9]*", "*.mindir"),
        )
    pillow = str(conftest.REPOSITORY / ".venv" / "export" / "lib" / "python3.9" / "site-packages")
    stages = folder / "servable" / "metric_learn" / "stages.py"
    text = stages.read_text()
    assert "_pool.submit(" in text and "def l2_normalize(" in text
    stages.write_text(text + PATCH.format(switch=str(switch), pillow=pillow))
    # Readiness would refuse most of these servables by itself; here the gate is under test.
    sections = folder / "servable" / "config" / "sections.py"
    text = sections.read_text()
    loosened = text.replace("default=0.008,\n        gt=0,\n        le=0.5,", "default=1e9,\n        gt=0,")
    assert loosened != text
    sections.write_text(loosened)
    (folder / ".runtime").symlink_to(conftest.REPOSITORY / ".runtime")
    (folder / ".venv").symlink_to(conftest.REPOSITORY / ".venv")
    return folder


def copy_of_the_export(folder, edits):
    """A copy of the export with `edits`: (file, old, new). Returns a function that runs its command."""
    for name in ("export", "servable", "configs", "tests/golden"):
        ignored = shutil.ignore_patterns("__pycache__", "*.mindir")
        shutil.copytree(conftest.REPOSITORY / name, folder / name, ignore=ignored)
    for file, old, new in [*edits, ("configs/model.yaml", "batch_sizes: [1, 4, 16]", "batch_sizes: [1]")]:
        path = folder / file
        text = path.read_text()
        assert old in text, f"{file} has changed: {old}"
        path.write_text(text.replace(old, new))

    def export(*arguments):
        python = str(conftest.REPOSITORY / ".venv" / "export" / "bin" / "python")
        engine_python = str(conftest.REPOSITORY / ".venv" / "engine" / "bin" / "python")
        environment = {**os.environ, "GLOG_v": "3", "METRIC_LEARN_BACKEND__ENGINE_PYTHON": engine_python}
        command = [python, "-m", "export", *map(str, arguments)]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)

    return export


def command_line(*arguments):
    """metric-learn in the client environment."""
    command = str(Path(conftest.REPOSITORY) / ".venv" / "client" / "bin" / "metric-learn")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True)
