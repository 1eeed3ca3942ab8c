"""AlexNet: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural
networks", NIPS 2012, sections 3 to 5, with the constants of the original code.
"""

from __future__ import annotations

from torch import nn

from fastconv import nn as fnn
from fastconv.models._stages import CeilPad2d, FitMap2d, StagedNet, check_init, he_normal_
from fastconv.models.registry import register_model


def _norm() -> nn.Module:
    return fnn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0, alpha_mode="mean")


class AlexNet(StagedNet):
    """The network of 2012: eight layers, maps of 55, 27, 13 and 6 pixels from 224.

    Convolutions 2, 4 and 5 are in two groups, as on the two GPUs of the original. Each pool looks
    at 3x3 windows, 2 apart, and comes after the normalisation (in Caffe's CaffeNet before it).
    Normalisation divides alpha by its window's 5 maps, as the original code does; the formula that
    the paper prints does not.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        dropout: float = 0.5,
        init: str = "paper",
        bias: float = 1.0,
    ):
        check_init("alexnet", init)
        stages = {
            "pad1": CeilPad2d(11, 4),
            "conv1": fnn.Conv2d(in_chans, 96, 11, stride=4),
            "relu1": nn.ReLU(),
            "norm1": _norm(),
            "pool1": fnn.MaxPool2d(3, stride=2),
            "conv2": fnn.Conv2d(96, 256, 5, padding=2, groups=2),
            "relu2": nn.ReLU(),
            "norm2": _norm(),
            "pool2": fnn.MaxPool2d(3, stride=2),
            "conv3": fnn.Conv2d(256, 384, 3, padding=1),
            "relu3": nn.ReLU(),
            "conv4": fnn.Conv2d(384, 384, 3, padding=1, groups=2),
            "relu4": nn.ReLU(),
            "conv5": fnn.Conv2d(384, 256, 3, padding=1, groups=2),
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
        self._init, self._bias = init, bias
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights anew, as ``init`` says."""
        if self._init == "he":
            he_normal_(self)
            return
        deviations = {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03}
        # Section 5: a positive bias gives these layers' ReLUs positive inputs from the start.
        positive = {"conv2", "conv4", "conv5", "fc6", "fc7"}
        for name, layer in self.named_children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=deviations.get(name, 0.01))
                nn.init.constant_(layer.bias, self._bias if name in positive else 0.0)


@register_model
def alexnet(num_classes: int = 1000, in_chans: int = 3, **kwargs) -> AlexNet:
    """AlexNet of 2012: 60.965M parameters and 724M multiply-adds at 224x224 and 1000 classes.

    Args:
        dropout: drop probability of fc6's and fc7's outputs, 0.5 in the paper.
        init: "paper": Gaussians of deviation .01 (.03 in conv3 to conv5), as in the original's
            configuration. "he": scaled to each layer's inputs, for small data sets.
        bias: under "paper", the initial bias of conv2, conv4, conv5, fc6 and fc7: 1 in the paper.
            Caffe's replication found a flat loss there and took 0.1.
    """
    return AlexNet(num_classes, in_chans, **kwargs)
