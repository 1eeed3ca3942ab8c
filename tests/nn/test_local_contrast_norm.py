"""LocalContrastNorm: the op with its options, as a layer."""

import pickle

import pytest
import torch
from op_testing import sample

import fastconv

OPTIONS = [
    ({}, "7, across_maps=True, divisor=mean, eps=0.0001"),
    (
        {"kernel_size": 5, "sigma": 2.0, "across_maps": False, "divisor": "threshold", "eps": 0.1},
        "5, sigma=2.0, across_maps=False, divisor=threshold, eps=0.1",
    ),
]


@pytest.mark.parametrize(("options", "text"), OPTIONS)
def test_passes_its_options_on(options, text):
    layer = fastconv.nn.LocalContrastNorm(**options)
    assert repr(layer) == f"LocalContrastNorm({text})"
    assert not list(layer.parameters()) and not layer.state_dict()
    for x in (sample(2, 3, 9, 8), sample(3, 9, 8)):
        assert torch.equal(layer(x), fastconv.local_contrast_norm(x, **options))
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
