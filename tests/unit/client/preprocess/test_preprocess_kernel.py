"""The compiled resize: equal to OpenCV's to the last bit, left out where it is not there, built where it can be."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_learn_client import preprocess
from metric_learn_client.preprocess import resize_kernel
from metric_learn_client.preprocess.header import short_side_size

CLIENT = Path(__file__).parents[4] / "client"
GOLDEN = Path(__file__).parents[3] / "golden"
EACH = 600  # shapes of every kind; with five kinds 3,000
RNG = np.random.default_rng(20261124)

compiled = pytest.mark.skipif(preprocess.KERNEL != "compiled", reason="the resize is not compiled on this machine")


def opencv(pixels):
    height, width = pixels.shape[:2]
    short = cv2.resize(pixels, short_side_size(width, height), interpolation=cv2.INTER_LANCZOS4)
    return cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR)


def any_size():
    return RNG.integers(1, 600, 2)


def about_the_target():
    return RNG.integers(150, 300, 2)


def flat():
    height = RNG.integers(1, 40)
    return height, RNG.integers(height, height * 12 + 1)


def tall():
    return flat()[::-1]


def one_side_exact():
    sides = [224, RNG.integers(20, 700)]
    return sides if RNG.integers(2) else sides[::-1]


def noise(height, width):
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if RNG.integers(3) == 0:  # black and white: the largest sums there are
        pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    return pixels


def test_the_compiled_resize_runs_where_a_compiler_is():
    if shutil.which("cc") and os.environ.get("METRIC_LEARN_RESIZE") != "opencv":
        assert preprocess.KERNEL == "compiled"


@compiled
@pytest.mark.parametrize("shape", [any_size, about_the_target, flat, tall, one_side_exact])
def test_pixels_equal_opencvs_at_hundreds_of_random_sizes(shape):
    for _ in range(EACH):
        height, width = (int(side) for side in shape())
        pixels = noise(height, width)
        assert np.array_equal(preprocess.resize(pixels), opencv(pixels)), f"{height} x {width}"


@compiled
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (2, 1), (8, 8), (5, 1200), (220, 9000), (9000, 220), (3000, 4000)]
)
def test_pixels_equal_opencvs_at_the_ends(height, width):
    pixels = noise(height, width)
    assert np.array_equal(preprocess.resize(pixels), opencv(pixels))


@compiled
def test_pixels_equal_opencvs_on_chessboards():
    """Black and white in step with the signs of the weights: results far outside 0 to 255."""
    for period in (1, 2, 3, 5):
        for height, width in ((112, 112), (150, 171), (448, 449), (1000, 700)):
            board = (np.add.outer(np.arange(height) // period, np.arange(width) // period) % 2).astype(np.uint8) * 255
            pixels = np.repeat(board[:, :, None], 3, axis=2)
            assert np.array_equal(preprocess.resize(pixels), opencv(pixels))


@compiled
def test_views_of_other_arrays_are_read_right_and_not_beyond():
    whole = noise(300, 400)
    for view in (whole[20:280, 30:370], whole[::2], whole[:, ::2], whole[::-1], whole[:, :, ::-1]):
        assert np.array_equal(preprocess.resize(view), opencv(np.ascontiguousarray(view)))


def test_a_library_that_gives_other_pixels_is_left_out():
    def off_by_one(pixels, size):
        return preprocess._resize_with_opencv(pixels, size) ^ np.uint8(1)

    assert resize_kernel.load_kernel(off_by_one) is None


def test_a_file_that_is_no_library_is_left_out(tmp_path, monkeypatch):
    for content in (None, b"", b"\x7fELF of another machine"):
        file = tmp_path / "_resize.so"
        if content is not None:
            file.write_bytes(content)
        monkeypatch.setattr(resize_kernel, "LIBRARY", file)
        assert resize_kernel.load_kernel(preprocess._resize_with_opencv) is None


def test_without_it_the_pixels_are_the_same():
    program = (
        "import sys, numpy as np; from pathlib import Path; from metric_learn_client import preprocess\n"
        "assert preprocess.KERNEL == 'opencv', preprocess.KERNEL\n"
        "reference = np.load(sys.argv[1] + '/reference.npz')\n"
        "for name, pixels in zip(reference['names'], reference['pixels_bgr_u8']):\n"
        "    assert np.array_equal(preprocess.preprocess(Path(sys.argv[1], 'images', name).read_bytes()), pixels)\n"
    )
    environment = {**os.environ, "METRIC_LEARN_RESIZE": "opencv"}
    subprocess.run([sys.executable, "-c", program, str(GOLDEN)], env=environment, check=True)


@pytest.fixture
def package(tmp_path):
    """A copy of what the wheel is built from, without a compiled library."""
    for name in ("pyproject.toml", "README.md", "build_kernel.py"):
        shutil.copy(CLIENT / name, tmp_path / name)
    shutil.copytree(CLIENT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "tag", "holds"),
    [
        ({"CC": "cc"}, "linux", True),
        ({"CC": "false"}, "none-any", False),
        ({"METRIC_LEARN_PURE": "1"}, "none-any", False),
    ],
    ids=["with a compiler", "with one that fails", "asked to be pure"],
)
def test_a_wheel_holds_the_libraries_where_they_can_be_compiled(package, environment, tag, holds):
    pytest.importorskip("build")
    if holds and not shutil.which("cc"):
        pytest.skip("no C compiler")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", str(package)],
        cwd=package,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    (wheel,) = (package / "out").glob("*.whl")
    assert tag in wheel.name and "py3-none" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert ("metric_learn_client/preprocess/_resize.so" in names) == holds
    assert "metric_learn_client/preprocess/_resize.c" in names


@compiled
def test_nothing_beyond_the_last_pixel_is_read():
    """The picture ends where a page that may not be read begins, in a process of its own."""
    program = (
        "import ctypes, mmap, numpy as np; from metric_learn_client import preprocess\n"
        "libc = ctypes.CDLL(None)\n"
        "for height, width in ((30, 40), (1, 1), (3, 300), (300, 3), (224, 500), (375, 500), (12, 10)):\n"
        "    size = height * width * 3\n"
        "    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE\n"
        "    block = mmap.mmap(-1, pages + mmap.PAGESIZE)\n"
        "    start = ctypes.addressof(ctypes.c_char.from_buffer(block))\n"
        "    assert libc.mprotect(ctypes.c_void_p(start + pages), mmap.PAGESIZE, 0) == 0\n"
        "    pixels = np.frombuffer(block, np.uint8, size, pages - size).reshape(height, width, 3)\n"
        "    assert preprocess._kernel(pixels, preprocess.short_side_size(width, height)).shape == (224, 224, 3)\n"
        "import os; print('done', flush=True); os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "done\n", (done.returncode, done.stderr)
