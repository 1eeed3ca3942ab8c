"""A small network with every layer, and every op with small arguments: what the tests here run."""

from __future__ import annotations

import torch
from torch import nn

import fastconv


class Everything(nn.Module):
    """All layers in a row; 8x8 digits in, ten classes out."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            fastconv.nn.LocalContrastNorm(3),
            fastconv.nn.Conv2d(1, 8, 3, padding=1, activation="relu", algorithm="fastconv"),
            fastconv.nn.LocalResponseNorm(5),
            fastconv.nn.Maxout(2),
            fastconv.nn.StochasticPool2d(3, 1),
            fastconv.nn.TiledConv2d(4, 6, 3, tile_size=2, padding=1),
            nn.ReLU(),
            fastconv.nn.AvgPool2d(2, 1),
            fastconv.nn.SumPool2d(2, 1),
        )
        self.unpool = fastconv.nn.MaxUnpool2d(2)
        self.pool = fastconv.nn.MaxPool2d(3, 2)
        self.drop = fastconv.nn.DropConnectLinear(24, 16)
        self.dropout = fastconv.nn.Dropout(0.2)
        # Not the library's, whose products' bits depend on the number of threads.
        self.last = fastconv.nn.Linear(16, 10, algorithm="fastconv")

    def forward(self, images):
        maps = self.features(images)
        pooled, switches = fastconv.max_pool2d_with_switches(maps, 2)
        maps = maps + self.unpool(pooled, switches, output_size=maps.shape[-2:])
        hidden = self.drop(self.pool(nn.functional.pad(maps, (1, 0, 1, 0))).flatten(1)).relu()
        return self.last(self.dropout(hidden))


def trained(steps, threads):
    """Losses and final weights of ``steps`` steps from one seed, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(7)
        model = Everything()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for _ in range(steps):
            images, targets = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses), [p.detach() for p in model.parameters()]
    finally:
        torch.set_num_threads(before)


def calls(size=8):
    """Every public op as a function of nothing: forward and backward, on its own tensors."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(shape, generator=generator).requires_grad_()

    x, weight, bias = rand(4, 8, size, size), rand(16, 8, 3, 3), rand(16)
    few = rand(4, 3, 2 * size, 2 * size)
    tiled, rows, matrix = rand(2, 2, 6, 8, 3, 3), rand(6, 40), rand(20, 40)
    pooled, switches = fastconv.max_pool2d_with_switches(x.detach(), 2)
    pooled.requires_grad_()
    ops = {
        "conv2d": lambda: fastconv.conv2d(x, weight, bias, algorithm="fastconv"),
        "conv2d, strided": lambda: fastconv.conv2d(few, weight[:, :3], bias, 2,
                                                   algorithm="fastconv"),
        "conv2d, dilated": lambda: fastconv.conv2d(x, weight, bias, dilation=2,
                                                   algorithm="fastconv"),
        "conv2d, library": lambda: fastconv.conv2d(x, weight, bias, algorithm="library"),
        "tiled_conv2d": lambda: fastconv.tiled_conv2d(x, tiled),
        "max_pool2d": lambda: fastconv.max_pool2d(x, 3, 2, return_indices=True)[0],
        "max_pool2d_with_switches": lambda: fastconv.max_pool2d_with_switches(x, 3, 2)[0],
        "max_unpool2d": lambda: fastconv.max_unpool2d(pooled, switches, 2,
                                                      output_size=(size, size)),
        "avg_pool2d": lambda: fastconv.avg_pool2d(x, 3, 2),
        "sum_pool2d": lambda: fastconv.sum_pool2d(x, 3, 2),
        "stochastic_pool2d": lambda: fastconv.stochastic_pool2d(x, 3, 2),
        "stochastic_pool2d, mean": lambda: fastconv.stochastic_pool2d(x, 3, 2, training=False),
        "maxout": lambda: fastconv.maxout(x, 2),
        "local_response_norm": lambda: fastconv.local_response_norm(x, 5),
        "local_response_norm_max_pool2d": lambda: fastconv.local_response_norm_max_pool2d(x, 5, 3,
                                                                                          2),
        "local_contrast_norm": lambda: fastconv.local_contrast_norm(x, 5),
        "linear": lambda: fastconv.linear(rows, matrix, algorithm="fastconv"),
        "drop_connect": lambda: fastconv.drop_connect(rows, matrix),
        "drop_connect, batch": lambda: fastconv.drop_connect(rows, matrix, mask="batch"),
        "drop_connect_gaussian": lambda: fastconv.drop_connect_gaussian(rows, matrix, samples=2),
    }  # fmt: skip

    def both_ways(op):
        def call():
            output = op()
            tensors = [t for t in (x, few, weight, bias, tiled, rows, matrix, pooled)]
            grads = torch.autograd.grad(output.square().sum(), tensors, allow_unused=True)
            return [output.detach(), *(g for g in grads if g is not None)]

        return call

    return {name: both_ways(op) for name, op in ops.items()}
