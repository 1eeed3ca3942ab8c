"""A small convnet of the same kind as the large ones, for 8x8 handwritten digits."""

from __future__ import annotations

from torch import nn

from fastconv import nn as fnn
from fastconv.models._stages import FitMap2d, StagedNet, he_normal_
from fastconv.models.registry import register_model


class DigitsConvNet(StagedNet):
    """conv, ReLU, norm, pool; conv, ReLU, pool; two fully connected layers. 50,866 parameters."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1, *, dropout: float = 0.5):
        stages = {
            "conv1": fnn.Conv2d(in_chans, 32, 3, padding=1),
            "relu1": nn.ReLU(),
            "norm1": fnn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            "pool1": fnn.MaxPool2d(3, stride=2, padding=1),
            "conv2": fnn.Conv2d(32, 64, 3, padding=1),
            "relu2": nn.ReLU(),
            "pool2": fnn.MaxPool2d(3, stride=2, padding=1),
            "fit3": FitMap2d(2),
            "flatten": nn.Flatten(),
            "fc3": fnn.Linear(64 * 2 * 2, 120),
            "relu3": nn.ReLU(),
            "drop3": nn.Dropout(dropout),
            "fc4": fnn.Linear(120, num_classes),
        }
        super().__init__(
            stages,
            input_size=(in_chans, 8, 8),
            num_classes=num_classes,
            minimum_size=5,  # from here on the pools leave a map of at least 2x2
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights anew (He et al. 2015)."""
        he_normal_(self)


@register_model
def digits_convnet(num_classes: int = 10, in_chans: int = 1, **kwargs) -> DigitsConvNet:
    """A small convnet for scikit-learn's 8x8 digits.

    Args:
        dropout: drop probability before the last layer.
    """
    return DigitsConvNet(num_classes, in_chans, **kwargs)
