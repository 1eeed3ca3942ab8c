"""What a loader's workers run; a module of its own, which a spawned process can import."""

import torch
from reliability.everything import calls
from torch.utils.data import Dataset

# Their results are the same bits whatever runs beside them.
NAMES = ["conv2d", "conv2d, strided", "conv2d, dilated", "tiled_conv2d", "max_pool2d",
         "max_unpool2d", "avg_pool2d", "stochastic_pool2d, mean", "maxout", "local_response_norm",
         "local_response_norm_max_pool2d", "local_contrast_norm"]  # fmt: skip


def results(name):
    return calls()[name]()


class Pooled(Dataset):
    """Runs ops in the worker, as a transform might."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.stack([results(name)[0].double().sum() for name in NAMES])


def with_two_threads(_worker):
    torch.set_num_threads(2)
