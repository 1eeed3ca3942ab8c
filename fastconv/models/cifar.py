"""The small networks of two papers on regularisation, to compare what they compare.

Zeiler & Fergus, "Stochastic pooling for regularization of deep convolutional neural networks",
ICLR 2013, section 4; Wan, Zeiler, Zhang, LeCun & Fergus, "Regularization of neural networks using
DropConnect", ICML 2013, section 6.
"""

from __future__ import annotations

from torch import nn

from fastconv import nn as fnn
from fastconv.models._stages import POOLS, FitMap2d, StagedNet, he_normal_, hidden, one_of
from fastconv.models.registry import register_model


class SmallNet(StagedNet):
    """A staged network for small images, initialised after He et al. (2015).

    Neither paper prints its initial weights. Those of cuda-convnet's configurations, Gaussians of
    .0001 to .1, are made for grey levels and many epochs.
    """

    def __init__(self, stages: dict[str, nn.Module], **sizes):
        super().__init__(stages, **sizes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights anew."""
        he_normal_(self)


def _convolution(
    number: int, inputs: int, outputs: int, pool: nn.Module, padding: int = 2
) -> dict[str, nn.Module]:
    """Stages of a 5x5 convolution, its ReLU and its pooling."""
    return {
        f"conv{number}": fnn.Conv2d(inputs, outputs, 5, padding=padding),
        f"relu{number}": nn.ReLU(),
        f"pool{number}": pool,
    }


def _overlapping(pool: type[nn.Module]) -> nn.Module:
    # The last, partial window counts, as in cuda-convnet: maps of 16, 8 and 4 pixels from 32.
    return pool(3, stride=2, ceil_mode=True)


@register_model
def cifar_stochastic_pooling(
    num_classes: int = 10, in_chans: int = 3, *, pooling: str = "stochastic"
) -> SmallNet:
    """The CIFAR-10 network of stochastic pooling: three 5x5 convolutions of 64 maps and a softmax.

    Each is followed by ReLU, 3x3 pooling with stride 2 and response normalisation. 220,042
    parameters.

    Args:
        pooling: "max", "avg" or "stochastic", in all three layers.
    """
    one_of("cifar_stochastic_pooling", "pooling", pooling, list(POOLS))
    stages: dict[str, nn.Module] = {}
    for number, maps in enumerate((in_chans, 64, 64), 1):
        stages |= _convolution(number, maps, 64, _overlapping(POOLS[pooling]))
        # "As in" Hinton et al. 2012 (dropout), whose constants these are.
        stages[f"norm{number}"] = fnn.LocalResponseNorm(9, alpha=1e-3, beta=0.75, k=1.0)
    stages |= {
        "fit4": FitMap2d(4),
        "flatten": nn.Flatten(),
        "fc4": fnn.Linear(64 * 4 * 4, num_classes),
    }
    return SmallNet(stages, input_size=(in_chans, 32, 32), num_classes=num_classes, minimum_size=8)


@register_model
def cifar_dropconnect(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    regulariser: str | None = "dropconnect",
    p: float = 0.5,
) -> SmallNet:
    """DropConnect's small CIFAR-10 network: three 5x5 convolutions, 64 regularised units, softmax.

    The convolutions are those of cuda-convnet's layers-80sec.cfg: 32, 32 and 64 maps, pooled by
    maximum, average and average. 145,578 parameters.

    Args:
        regulariser: of the 64 units: "dropconnect" (bias masked too, sampled inference), "dropout"
            (scaled at test) or None.
        p: probability with which a weight or a unit is dropped.
    """
    stages = {
        **_convolution(1, in_chans, 32, _overlapping(fnn.MaxPool2d)),
        **_convolution(2, 32, 32, _overlapping(fnn.AvgPool2d)),
        **_convolution(3, 32, 64, _overlapping(fnn.AvgPool2d)),
        "fit4": FitMap2d(4),
        "flatten": nn.Flatten(),
        **hidden("cifar_dropconnect", 4, 64 * 4 * 4, 64, regulariser, p, "test"),
        "fc5": fnn.Linear(64, num_classes),
    }
    return SmallNet(stages, input_size=(in_chans, 32, 32), num_classes=num_classes, minimum_size=8)


@register_model
def mnist_dropconnect(
    num_classes: int = 10,
    in_chans: int = 1,
    *,
    regulariser: str | None = "dropconnect",
    p: float = 0.5,
) -> SmallNet:
    """DropConnect's MNIST network: convolutions of 32 and 64 maps, 150 regularised units, softmax.

    The paper gives these numbers; 5x5 filters and 2x2 maxima are chosen here, as usual for MNIST.
    207,356 parameters.

    Args:
        regulariser: of the 150 units: "dropconnect" (bias masked too, sampled inference),
            "dropout" (scaled at test) or None.
        p: probability with which a weight or a unit is dropped.
    """
    stages = {
        **_convolution(1, in_chans, 32, fnn.MaxPool2d(2), padding=0),
        **_convolution(2, 32, 64, fnn.MaxPool2d(2), padding=0),
        "fit3": FitMap2d(4),
        "flatten": nn.Flatten(),
        **hidden("mnist_dropconnect", 3, 64 * 4 * 4, 150, regulariser, p, "test"),
        "fc4": fnn.Linear(150, num_classes),
    }
    return SmallNet(stages, input_size=(in_chans, 28, 28), num_classes=num_classes, minimum_size=16)
