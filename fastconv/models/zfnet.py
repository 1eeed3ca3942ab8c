"""ZFNet: Zeiler & Fergus, "Visualizing and understanding convolutional networks",
arXiv:1311.2901, section 3 and figure 3.
"""

from __future__ import annotations

from fastconv.models._classic import ClassicNet, Convolution, Initial, Norms
from fastconv.models.registry import register_model

# "Contrast normalized across feature maps"; the constants are those of the 2012 code.
_NORMS = Norms({"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "alpha_mode": "mean"})


def _layers(third: int, fourth: int, fifth: int) -> tuple[Convolution, ...]:
    """The five convolutions; maps of the last three. The first two pools count a partial window."""
    return (
        Convolution(96, 7, "relu pool norm", stride=2, pads=True, ceil_pool=True),
        Convolution(256, 5, "relu pool norm", stride=2, ceil_pool=True),
        Convolution(third, 3, padding=1),
        Convolution(fourth, 3, padding=1),
        Convolution(fifth, 3, "relu pool", padding=1),
    )


@register_model
def zfnet(num_classes: int = 1000, in_chans: int = 3, **options) -> ClassicNet:
    """ZFNet of 2013: 62.358M parameters and 1168M multiply-adds at 224x224 and 1000 classes.

    Maps of 110, 55, 26, 13 and 6 pixels from 224. Against AlexNet: 7x7 filters 2 apart in the first
    layer, no groups, and pooling before normalisation.

    Args:
        init: "paper": Gaussians of deviation .01, biases 0. "he": scaled to each layer's inputs,
            for small data sets.
        options: ``drop_layers``, ``regulariser``, ``p``, ``dropout_scale``, ``pooling``, ``norm``,
            ``tile_size``: see `fastconv.models.ClassicNet`.
    """
    return ClassicNet(
        "zfnet", _layers(384, 384, 256), _NORMS, Initial({}), num_classes, in_chans, **options
    )


@register_model
def zfnet_wide(num_classes: int = 1000, in_chans: int = 3, **options) -> ClassicNet:
    """ZFNet (b) of table 2: layers 3, 4 and 5 with 512, 1024 and 512 maps.

    107.6M parameters and 2477M multiply-adds at 224x224 and 1000 classes. Options as `zfnet`'s.
    """
    return ClassicNet(
        "zfnet_wide", _layers(512, 1024, 512), _NORMS, Initial({}), num_classes, in_chans, **options
    )
