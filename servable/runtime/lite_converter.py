"""MindSpore Lite's converter: a MindIR -> an offline model, compiled for the chip of this host.

converter_lite of MindSpore Lite's package where METRIC_LEARN_LITE_DIR names one that is unpacked. Else the same
converter as the library that the PyPI wheel holds, by this module as a command with the same options; the wheel's own
Python interface to it is for Python 3.7 alone. Either needs CANN. Standard library only.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from servable.runtime.lite_runtime import PACKAGE_LIBRARIES, REQUIREMENT, lite_directory, package_directory

LIBRARY = "libmindspore_converter.so"
PROGRAM = Path("tools", "converter", "converter", "converter_lite")  # in the package
PROGRAM_LIBRARIES = Path("tools", "converter", "lib")
OPTIONS = ("--fmk=MINDIR", "--saveType=MINDIR", "--optimize=ascend_oriented")
# Of mindspore::Converter, as the Itanium C++ ABI spells them. std::vector<char> stands for strings in its interface.
_CLASS, _TEXT = "_ZN9mindspore9Converter", "RKSt6vectorIcSaIcEE"
_MINDIR_OUT, _MINDIR_IN = 0, 3  # mindspore::kMindIR, mindspore::converter::kFmkTypeMs


@dataclass(frozen=True)
class Converter:
    """command: without a model. libraries: folders for its LD_LIBRARY_PATH."""

    name: str
    command: list[str]
    libraries: list[Path]


def find_converter(python: Path) -> Optional[Converter]:
    """python: that of the environment `engine`, with what CANN's compiler imports inside the converter's process."""
    package = package_directory()
    if package is not None and (package / PROGRAM).is_file():
        libraries = [package / PACKAGE_LIBRARIES, package / PROGRAM_LIBRARIES]
        return Converter(PROGRAM.name, [str(package / PROGRAM), *OPTIONS], libraries)
    if (lite_directory() / LIBRARY).is_file():
        command = [str(python), "-m", "servable.runtime.lite_converter", *OPTIONS]
        return Converter(REQUIREMENT, command, [lite_directory()])
    return None


def convert(library: Path, model: str, output: str, config: str) -> bool:
    """Writes `output`.mindir. The library says on stdout and stderr what went wrong."""
    loaded = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    converter = ctypes.byref((ctypes.c_void_p * 2)())  # one shared pointer; it lives as long as this process
    kept: list[object] = []

    def text(value: str) -> object:
        data = value.encode()
        buffer = ctypes.create_string_buffer(data, len(data) + 1)
        begin = ctypes.addressof(buffer)
        vector = (ctypes.c_void_p * 3)(begin, begin + len(data), begin + len(data))  # begin, end, end of the room
        kept.extend((buffer, vector))
        return ctypes.byref(vector)

    loaded[f"{_CLASS}C1Ev"](converter)
    loaded[f"{_CLASS}11SetSaveTypeENS_9ModelTypeE"](converter, _MINDIR_OUT)
    loaded[f"{_CLASS}11SetNoFusionEb"](converter, False)
    loaded[f"{_CLASS}9SetDeviceE{_TEXT}"](converter, text("Ascend"))
    loaded[f"{_CLASS}13SetConfigFileE{_TEXT}"](converter, text(config))
    run = loaded[f"{_CLASS}7ConvertENS_9converter7FmkTypeE{_TEXT}S7_S7_"]
    run.restype = _Status
    run(converter, _MINDIR_IN, text(model), text(output), text(""))
    return Path(f"{output}.mindir").is_file()


class _Status(ctypes.Structure):
    """One shared pointer. Larger here: so it is returned through memory, as a class with a destructor is."""

    _fields_ = [("words", ctypes.c_void_p * 4)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in OPTIONS:
        name, _, value = option.partition("=")
        parser.add_argument(name, choices=[value], default=value)
    for name in ("--modelFile", "--outputFile", "--configFile"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    done = convert(lite_directory() / LIBRARY, given.modelFile, given.outputFile, given.configFile)
    sys.stdout.flush()
    os._exit(0 if done else 1)  # CANN's libraries end in an order of their own


if __name__ == "__main__":
    sys.exit(main())
