"""One op a page: function, reference, fake, backward."""

import fastconv._library  # noqa: F401  the schemas must stand before the pages register on them
from fastconv.ops.avg_pool2d import avg_pool2d, sum_pool2d
from fastconv.ops.conv2d import conv2d
from fastconv.ops.drop_connect import drop_connect, drop_connect_gaussian
from fastconv.ops.linear import linear
from fastconv.ops.local_contrast_norm import local_contrast_norm
from fastconv.ops.local_response_norm import local_response_norm
from fastconv.ops.local_response_norm_max_pool2d import local_response_norm_max_pool2d
from fastconv.ops.max_pool2d import max_pool2d, max_pool2d_with_switches
from fastconv.ops.max_unpool2d import max_unpool2d
from fastconv.ops.maxout import maxout
from fastconv.ops.prepare_images import prepare_images
from fastconv.ops.stochastic_pool2d import stochastic_pool2d
from fastconv.ops.tiled_conv2d import tiled_conv2d

__all__ = [
    "avg_pool2d",
    "conv2d",
    "drop_connect",
    "drop_connect_gaussian",
    "linear",
    "local_contrast_norm",
    "local_response_norm",
    "local_response_norm_max_pool2d",
    "max_pool2d",
    "max_pool2d_with_switches",
    "max_unpool2d",
    "maxout",
    "prepare_images",
    "stochastic_pool2d",
    "sum_pool2d",
    "tiled_conv2d",
]
