"""The resize as it is compiled for aarch64 hosts, run in an emulator on any machine: NEON, equal to OpenCV's.

The compiler (ziglang) and the emulator (unicorn) come from PyPI into an environment that the test throws away.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[4] / "client" / "src" / "metric_learn_client" / "preprocess" / "_resize.c"
PACKAGES = ["ziglang==0.17.1", "unicorn==2.1.4", "pyelftools==0.33", "numpy", "opencv-python-headless"]
SHAPES = 150

# The kernel alone: memory comes from a fixed block, so no operating system has to be emulated.
HARNESS = """
#include <stddef.h>
#include <stdint.h>
static _Alignas(64) uint8_t heap[1 << 20];
void *aligned_alloc(size_t alignment, size_t size) { (void)alignment; (void)size; return heap; }
void free(void *block) { (void)block; }
int metric_learn_resize(const uint8_t *, int64_t, int64_t, int64_t, int64_t, int64_t, uint8_t *);
int main(void) { return metric_learn_resize(0, 1, 1, 3, 224, 224, 0); }
"""

EMULATOR = """
import sys
import cv2
import numpy as np
from elftools.elf.elffile import ELFFile
from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, Uc
from unicorn import arm64_const as arm

PAGE, INPUT, OUTPUT, STACK, RETURN = 4096, 0x5000000000, 0x6000000000, 0x7000000000, 0x4000000000
with open(sys.argv[1], "rb") as file:
    elf = ELFFile(file)
    loaded = [segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"]
    low = min(segment["p_vaddr"] for segment in loaded) // PAGE * PAGE
    high = max(segment["p_vaddr"] + segment["p_memsz"] for segment in loaded)
    machine = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    machine.mem_map(low, (high - low + PAGE) // PAGE * PAGE + PAGE)
    for segment in loaded:
        machine.mem_write(segment["p_vaddr"], segment.data())
    (symbol,) = elf.get_section_by_name(".symtab").get_symbol_by_name("metric_learn_resize")
machine.mem_map(OUTPUT, 1 << 20)
machine.mem_map(STACK, 1 << 20)
machine.mem_map(RETURN, PAGE)
machine.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 0x300000)  # floating point and NEON on

def first_size(width, height):
    factor = 224.0 / min(width, height)
    return int(round(width * factor)), int(round(height * factor))

def emulated(pixels):
    height, width = pixels.shape[:2]
    first_width, first_height = first_size(width, height)
    mapped = -(-pixels.nbytes // PAGE) * PAGE
    start = INPUT + mapped - pixels.nbytes  # the picture ends where the mapping ends: reading on is a fault
    machine.mem_map(INPUT, mapped)
    machine.mem_write(start, pixels.tobytes())
    arguments = (start, height, width, 3 * width, first_height, first_width, OUTPUT)
    for index, value in enumerate(arguments):
        machine.reg_write(arm.UC_ARM64_REG_X0 + index, value)
    machine.reg_write(arm.UC_ARM64_REG_SP, STACK + (1 << 20) - 64)
    machine.reg_write(arm.UC_ARM64_REG_LR, RETURN)
    machine.emu_start(symbol["st_value"], RETURN)
    machine.mem_unmap(INPUT, mapped)
    assert machine.reg_read(arm.UC_ARM64_REG_X0) == 0
    return np.frombuffer(bytes(machine.mem_read(OUTPUT, 224 * 224 * 3)), np.uint8).reshape(224, 224, 3)

random = np.random.default_rng(1)
for number in range(int(sys.argv[2])):
    kind = number % 4
    if kind == 0:
        height, width = random.integers(1, 400, 2)
    elif kind == 1:
        height, width = random.integers(1, 12), random.integers(1, 300)
    elif kind == 2:
        height, width = random.integers(1, 300), random.integers(1, 12)
    else:
        height, width = 224, random.integers(30, 500)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    short = cv2.resize(pixels, first_size(width, height), interpolation=cv2.INTER_LANCZOS4)
    expected = cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(emulated(pixels), expected), f"{height} x {width}"
print("equal:", number + 1)
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_aarch64_code_gives_opencvs_pixels_and_reads_nothing_beyond_them(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "harness.c").write_text(HARNESS)
    (tmp_path / "emulator.py").write_text(EMULATOR)
    compile_ = [python, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O3", "-std=gnu11"]
    compile_ += ["-ffp-contract=off", "-fwrapv", "-fno-sanitize=undefined", str(SOURCE), str(tmp_path / "harness.c")]
    subprocess.run([*compile_, "-o", str(tmp_path / "kernel")], check=True, env={"HOME": str(tmp_path)})
    command = [python, str(tmp_path / "emulator.py"), str(tmp_path / "kernel"), str(SHAPES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == f"equal: {SHAPES}", done.stderr[-2000:]
