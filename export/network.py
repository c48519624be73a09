"""The network: ResNet50 v1.5 as the model zoo trained it, and the graph that is exported around it.

No I/O. Source: MindSpore model zoo, research/cv/metric_learn (branch r1.5), src/resnet.py: every convolution pads
"same" and has no bias, the stride sits in the 3x3 convolution (v1.5), max-pool 3x3/2 "same", BatchNorm eps 1e-4,
then the mean over height and width. Parameter names equal those of the published checkpoint.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import nn, ops

BATCH_NORM_EPS = 1e-4
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # (blocks, width, stride of the first block)
EXPANSION = 4


Weights = dict[str, npt.NDArray[np.float32]]  # by parameter name


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, folded: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, pad_mode="same", has_bias=folded)


def _norm(channels: int, *, folded: bool) -> nn.Cell:
    return nn.Identity() if folded else nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


class Bottleneck(nn.Cell):  # type: ignore[misc]  # MindSpore has no types
    """1x1 -> 3x3 (with the stride) -> 1x1, plus the shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, *, folded: bool) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = _conv(in_channels, width, 1, folded=folded)
        self.bn1 = _norm(width, folded=folded)
        self.conv2 = _conv(width, width, 3, stride, folded=folded)
        self.bn2 = _norm(width, folded=folded)
        self.conv3 = _conv(width, out_channels, 1, folded=folded)
        self.bn3 = _norm(out_channels, folded=folded)
        self.relu = nn.ReLU()
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.down_sample_layer = nn.SequentialCell(
                [_conv(in_channels, out_channels, 1, stride, folded=folded), _norm(out_channels, folded=folded)]
            )

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        shortcut = self.down_sample_layer(x) if self.projects else x
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet50(nn.Cell):  # type: ignore[misc]
    """float32 [N, 3, H, W], normalised, BGR -> float32 [N, 2048], not normalised.

    folded: without BatchNorm and with a bias in each convolution, for the weights of `fold_batch_norms`.
    """

    def __init__(self, *, folded: bool = False) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2, folded=folded)
        self.bn1 = _norm(64, folded=folded)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="same")
        channels = 64
        for index, (blocks, width, stride) in enumerate(STAGES, start=1):
            cells = []
            for block in range(blocks):
                cells.append(Bottleneck(channels, width, stride if block == 0 else 1, folded=folded))
                channels = width * EXPANSION
            setattr(self, f"layer{index}", nn.SequentialCell(cells))
        self.mean = ops.ReduceMean(keep_dims=False)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.mean(x, (2, 3))


def fold_batch_norms(weights: Weights) -> Weights:
    """The same function with each BatchNorm's scale and shift in the convolution before it; computed in float64.

    A runtime folds them itself, but then keeps both: without them MindSpore Lite needs 0.1 GB less for each MindIR.
    """
    folded: Weights = {}
    for name, kernel in weights.items():
        cell, _, what = name.rpartition(".")
        if what != "weight":
            continue
        norm = cell[:-1] + "1" if cell.endswith("down_sample_layer.0") else cell.replace("conv", "bn")
        gamma, beta, mean, variance = (
            weights[f"{norm}.{part}"].astype(np.float64) for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPS)
        folded[name] = (kernel * scale[:, None, None, None]).astype(np.float32)
        folded[f"{cell}.bias"] = (beta - mean * scale).astype(np.float32)
    return folded


def backbone_of(weights: Weights, *, folded: bool = False) -> ResNet50:
    """The network with the weights of a checkpoint, for use on a CPU; folded: with no BatchNorm left."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    backbone = ResNet50(folded=folded)
    weights = fold_batch_norms(weights) if folded else weights
    for parameter in backbone.get_parameters():
        parameter.set_data(ms.Tensor(weights[parameter.name]))
    backbone.set_train(False)
    return backbone


class PixelsToFeatures(nn.Cell):  # type: ignore[misc]
    """uint8 [N, 224, 224, 3] BGR -> float32 [N, 2048]: the graph inside each MindIR.

    Normalisation is in here so that 150,528 bytes travel per image instead of 602,112, and so that every device
    shares one contract.
    """

    def __init__(self, backbone: ResNet50, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__(auto_prefix=False)
        self.backbone = backbone
        as_channels = (1, 3, 1, 1)
        self.scale = ms.Tensor((1.0 / (255.0 * np.array(std))).astype(np.float32).reshape(as_channels))
        self.shift = ms.Tensor((np.array(mean) / np.array(std)).astype(np.float32).reshape(as_channels))
        self.transpose = ops.Transpose()
        self.cast = ops.Cast()

    def construct(self, pixels: ms.Tensor) -> ms.Tensor:
        # The transpose must read the graph's input itself: behind a Cast or Mul, MindSpore Lite 2.0.0 loses the
        # layout, and refuses the first convolution with "Unexpected input format 0".
        x = self.cast(self.transpose(pixels, (0, 3, 1, 2)), ms.float32)
        return self.backbone(x * self.scale - self.shift)
