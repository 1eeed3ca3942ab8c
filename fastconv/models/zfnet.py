"""ZFNet: Zeiler & Fergus, "Visualizing and understanding convolutional networks",
arXiv:1311.2901, section 3 and figure 3.
"""

from __future__ import annotations

from torch import nn

from fastconv import nn as fnn
from fastconv.models._stages import CeilPad2d, FitMap2d, StagedNet, check_init, he_normal_
from fastconv.models.registry import register_model


def _norm() -> nn.Module:
    # "Contrast normalized across feature maps"; the constants are AlexNet's.
    return fnn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0, alpha_mode="mean")


class ZFNet(StagedNet):
    """The network of 2013: maps of 110, 55, 26, 13 and 6 pixels from 224.

    Against AlexNet: 7x7 filters 2 apart in the first layer, no groups, and pooling before
    normalisation. The pools after conv1 and conv2 count a last, partial window.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        dropout: float = 0.5,
        init: str = "paper",
    ):
        check_init("zfnet", init)
        stages = {
            "pad1": CeilPad2d(7, 2),
            "conv1": fnn.Conv2d(in_chans, 96, 7, stride=2),
            "relu1": nn.ReLU(),
            "pool1": fnn.MaxPool2d(3, stride=2, ceil_mode=True),
            "norm1": _norm(),
            "conv2": fnn.Conv2d(96, 256, 5, stride=2),
            "relu2": nn.ReLU(),
            "pool2": fnn.MaxPool2d(3, stride=2, ceil_mode=True),
            "norm2": _norm(),
            "conv3": fnn.Conv2d(256, 384, 3, padding=1),
            "relu3": nn.ReLU(),
            "conv4": fnn.Conv2d(384, 384, 3, padding=1),
            "relu4": nn.ReLU(),
            "conv5": fnn.Conv2d(384, 256, 3, padding=1),
            "relu5": nn.ReLU(),
            "pool5": fnn.MaxPool2d(3, stride=2),
            "fit6": FitMap2d(6),
            "flatten": nn.Flatten(),
            "fc6": nn.Linear(256 * 6 * 6, 4096),
            "relu6": nn.ReLU(),
            "drop6": nn.Dropout(dropout),
            "fc7": nn.Linear(4096, 4096),
            "relu7": nn.ReLU(),
            "drop7": nn.Dropout(dropout),
            "fc8": nn.Linear(4096, num_classes),
        }
        super().__init__(
            stages,
            input_size=(in_chans, 224, 224),
            num_classes=num_classes,
            minimum_size=64,
            input_units="pixels" if init == "paper" else "std",
        )
        self._init = init
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights anew, as ``init`` says."""
        if self._init == "he":
            he_normal_(self)
            return
        for layer in self.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)


@register_model
def zfnet(num_classes: int = 1000, in_chans: int = 3, **kwargs) -> ZFNet:
    """ZFNet of 2013: 62.358M parameters and 1168M multiply-adds at 224x224 and 1000 classes.

    Args:
        dropout: drop probability of fc6's and fc7's outputs, 0.5 in the paper.
        init: "paper": Gaussians of deviation .01, biases 0. "he": scaled to each layer's inputs,
            for small data sets.
    """
    return ZFNet(num_classes, in_chans, **kwargs)
