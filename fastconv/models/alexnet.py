"""AlexNet, in the readings that are in use.

Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks",
NIPS 2012, sections 3 to 5; their code of 2012 as the Computer History Museum published it
(layers/layers-145.cfg); Caffe's bvlc_reference_caffenet; Krizhevsky, "One weird trick for
parallelizing convolutional neural networks", arXiv:1404.5997, as torchvision has it.
"""

from __future__ import annotations

from torch import nn

from fastconv import nn as fnn
from fastconv.models._classic import ClassicNet, Convolution, Initial, Norms
from fastconv.models._stages import FitMap2d, StagedNet, one_of
from fastconv.models.registry import register_model

# Section 5: a positive bias gives these layers' ReLUs positive inputs from the start.
_POSITIVE = ("conv2", "conv4", "conv5", "fc6", "fc7")


def _layers(first: str, second: str, last: str, pads: bool) -> tuple[Convolution, ...]:
    """The five convolutions; what follows conv1, conv2 and conv5. The groups are the two GPUs'."""
    return (
        Convolution(96, 11, first, stride=4, pads=pads),
        Convolution(256, 5, second, padding=2, groups=2),
        Convolution(384, 3, padding=1),
        Convolution(384, 3, padding=1, groups=2),
        Convolution(256, 3, last, padding=1, groups=2),
    )


_PAPER = _layers("relu norm pool", "relu norm pool", "relu pool", pads=True)
_CODE = _layers("norm pool relu", "relu norm within pool", "pool relu", pads=True)
_CAFFE = _layers("relu pool norm", "relu pool norm", "relu pool", pads=False)

_LRN = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
_PAPER_NORMS = Norms({**_LRN, "alpha_mode": "sum"})
_CODE_NORMS = Norms(
    {**_LRN, "alpha_mode": "mean"},
    # cnorm2 of the configuration; its divisor's constant, minDiv, is left at 1.
    {"size": 5, "alpha": 1e-3, "beta": 0.75, "k": 1.0, "alpha_mode": "mean", "region": "within"},
)
_CAFFE_NORMS = Norms({**_LRN, "k": 1.0, "alpha_mode": "mean"})


@register_model
def alexnet(
    num_classes: int = 1000,
    in_chans: int = 3,
    *,
    variant: str = "paper",
    bias: float = 1.0,
    **options,
) -> ClassicNet:
    """AlexNet of 2012: 60.965M parameters and 724M multiply-adds at 224x224 and 1000 classes.

    Maps of 55, 27, 13 and 6 pixels from 224. Convolutions 2, 4 and 5 are in two groups, as on the
    two GPUs of the original. Each pool looks at 3x3 windows, 2 apart, behind the normalisation.

    Args:
        variant: "paper": what sections 3.3 to 3.5 print: ReLU behind every layer, then response
            normalisation with ``a = alpha``. "code": what was run: conv1's outputs are normalised
            and pooled before their ReLU (conv5's pooled), ``a = alpha / 5``, and behind conv2 a
            second normalisation over 5x5 places within each map (alpha .001, k 1). The code
            normalises each GPU's maps for themselves; here windows run over all of them.
        init: "paper": Gaussians of deviation .01 (.03 in conv3 to conv5), as in the code's
            configuration. "he": scaled to each layer's inputs, for small data sets.
        bias: under "paper", the initial bias of conv2, conv4, conv5, fc6 and fc7: 1 in paper and
            code. Caffe's replication found a flat loss there and took 0.1.
        options: ``drop_layers``, ``regulariser``, ``p``, ``dropout_scale``, ``pooling``, ``norm``,
            ``tile_size``: see `fastconv.models.ClassicNet`.
    """
    one_of("alexnet", "variant", variant, ("paper", "code"))
    return ClassicNet(
        "alexnet",
        _CODE if variant == "code" else _PAPER,
        _CODE_NORMS if variant == "code" else _PAPER_NORMS,
        Initial({"conv3": 0.03, "conv4": 0.03, "conv5": 0.03}, _POSITIVE, bias),
        num_classes,
        in_chans,
        **options,
    )


@register_model
def caffenet(
    num_classes: int = 1000, in_chans: int = 3, *, bias: float = 1.0, **options
) -> ClassicNet:
    """CaffeNet, Caffe's reference model: AlexNet that pools before it normalises; 227x227 pixels.

    60.965M parameters, like AlexNet. Weights of Caffe's file expect channels in the order BGR.

    Args:
        init: "paper": Gaussians of deviation .01 (.005 in fc6 and fc7), as its train_val.prototxt
            says; "he": scaled to each layer's inputs.
        bias: under "paper", the initial bias of conv2, conv4, conv5, fc6 and fc7.
        options: as `alexnet`'s.
    """
    return ClassicNet(
        "caffenet",
        _CAFFE,
        _CAFFE_NORMS,
        Initial({"fc6": 0.005, "fc7": 0.005}, _POSITIVE, bias),
        num_classes,
        in_chans,
        side=227,
        minimum_size=67,
        **options,
    )


class AlexNetOWT(StagedNet):
    """The net of ``torchvision.models.alexnet``, with its ``state_dict`` keys."""

    def __init__(self, num_classes: int, in_chans: int, dropout: float):
        def convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1):
            padding = kernel_size // 2 if stride == 1 else 2
            return fnn.Conv2d(inputs, outputs, kernel_size, stride, padding), nn.ReLU()

        features = nn.Sequential(
            *convolution(in_chans, 64, 11, stride=4),
            fnn.MaxPool2d(3, 2),
            *convolution(64, 192, 5),
            fnn.MaxPool2d(3, 2),
            *convolution(192, 384, 3),
            *convolution(384, 256, 3),
            *convolution(256, 256, 3),
            fnn.MaxPool2d(3, 2),
        )
        classifier = nn.Sequential(
            nn.Dropout(dropout),
            fnn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            fnn.Linear(4096, 4096),
            nn.ReLU(),
            fnn.Linear(4096, num_classes),
        )
        stages = {
            "features": features,
            "avgpool": FitMap2d(6),
            "flatten": nn.Flatten(),
            "classifier": classifier,
        }
        super().__init__(
            stages,
            input_size=(in_chans, 224, 224),
            num_classes=num_classes,
            minimum_size=63,
        )

    def init_weights(self) -> None:
        """Draw the weights anew, as torch's layers do by themselves."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()


@register_model
def alexnet_owt(num_classes: int = 1000, in_chans: int = 3, *, dropout: float = 0.5) -> AlexNetOWT:
    """The AlexNet of 2014 (one weird trick), as torchvision has it: 61.101M parameters.

    64-192-384-256-256 maps, no groups, no normalisation. A ``state_dict`` of
    ``torchvision.models.alexnet`` loads strictly and gives equal outputs; its images are in [0, 1]
    less ImageNet's mean colour, over its deviation.

    Args:
        dropout: drop probability of the inputs of both hidden layers.
    """
    return AlexNetOWT(num_classes, in_chans, dropout)
