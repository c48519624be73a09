"""Makes float16.npz: the golden pictures' embeddings as a float16 device would give them, and their negatives'.

    .venv/export/bin/python tests/golden/float16.py STAND_IN_CHECKPOINT

MindSpore on the CPU, float32, with weights, normalised pixels, and the result of every convolution and activation
rounded to float16. A device rounds elsewhere too: this tells how large such differences are, not which.
embeddings: float32 [18, 2048]. spread: float64 [18], from each float32 embedding to that of the picture's negative.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
import mindspore as ms
from export import network
from export.checkpoint import read_checkpoint
from export.facts import model_facts
from mindspore import nn, ops

HERE = Path(__file__).parent


class Rounded(nn.Cell):
    def __init__(self, inside):
        super().__init__(auto_prefix=False)
        self.inside, self.cast = inside, ops.Cast()

    def construct(self, x):
        return self.cast(self.cast(self.inside(x), ms.float16), ms.float32)


def half(values):
    return values.astype(np.float16).astype(np.float32)


def round_within(cell):
    for name, child in list(cell._cells.items()):
        if isinstance(child, (nn.Conv2d, nn.ReLU)):
            cell._cells[name] = Rounded(child)
        else:
            round_within(child)


def backbone(checkpoint, *, float16):
    made = network.ResNet50(folded=True)
    for parameter, value in ((each, network.fold_batch_norms(checkpoint.weights)) for each in made.get_parameters()):
        parameter.set_data(ms.Tensor(half(value[parameter.name]) if float16 else value[parameter.name]))
    if float16:
        round_within(made)
    made.set_train(False)
    return made


def unit(rows):
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def run(cell, images):
    return np.concatenate([cell(ms.Tensor(image[None])).asnumpy() for image in images])


def main():
    facts = model_facts()
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    checkpoint = read_checkpoint(Path(sys.argv[1]), facts.expected_extras)
    reference = np.load(HERE / "reference.npz")
    pixels = reference["pixels_bgr_u8"].transpose(0, 3, 1, 2).astype(np.float32)
    mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (facts.mean, facts.std))
    negatives = unit(run(backbone(checkpoint, float16=False), ((255 - pixels) / 255 - mean) / std))
    rounded = half(half(pixels * half(1 / (255 * std))) - half(mean / std))
    embeddings = unit(half(run(backbone(checkpoint, float16=True), rounded)))
    spread = np.linalg.norm(unit(reference["features_f32"]) - negatives, axis=1)
    np.savez_compressed(HERE / "float16.npz", embeddings=embeddings.astype(np.float32), spread=spread)


if __name__ == "__main__":
    main()
