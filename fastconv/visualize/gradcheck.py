"""A layer's gradients against finite differences: what to check first of a layer of one's own."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CheckedGradient:
    """One tensor's gradient: the largest gap, relative to the tensor's largest derivative.

    ``checked`` elements were compared; ``kinks`` were left out, for there the function has no
    derivative (the slopes on the two sides differ). ``worst``: the index of the largest gap, with
    the gradient there by ``backward`` and by finite ``difference``.
    """

    name: str
    error: float
    checked: int
    kinks: int
    worst: tuple[int, ...]
    backward: float
    difference: float


@dataclass(frozen=True)
class GradientCheck:
    """The result for all inputs and parameters of a layer; true if all gradients are right."""

    rows: list[CheckedGradient]
    tolerance: float

    def __bool__(self) -> bool:
        return all(self.is_right(row) for row in self.rows)

    def is_right(self, row: CheckedGradient) -> bool:
        """Whether one tensor's gradient agrees; with nothing but kinks it does not."""
        return row.checked > 0 and row.error <= self.tolerance

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            verdict = "right" if self.is_right(row) else "WRONG"
            text = f"{verdict}  {row.name:<16} error {row.error:.1e} in {row.checked} elements"
            if row.kinks:
                text += f", {row.kinks} kinks left out"
            if not self.is_right(row) and row.checked:
                text += (
                    f"; at {row.worst} backward gives {row.backward:.6g}, "
                    f"finite differences {row.difference:.6g}"
                )
            lines.append(text)
        return "\n".join(lines)


def gradcheck_layer(
    layer: nn.Module,
    *inputs: Tensor,
    samples: int = 64,
    step: float = 1e-6,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> GradientCheck:
    """Compare a layer's gradients with finite differences, in float64, on a copy of it.

    The layer's output is weighed with fixed random numbers and summed. Elements of each input and
    parameter are moved by ``step`` to both sides, and the central difference is compared with what
    backward gives. A layer that draws gets the same draws each time.

    Args:
        layer: any module whose output is a tensor or a tuple with tensors.
        inputs: what its forward takes; gradients of the floating point ones are checked.
        samples: elements checked of each tensor, drawn at random; all where there are fewer.
        step: of the finite differences.
        tolerance: largest right error, relative to the tensor's largest derivative.
        seed: of weights, samples and the layer's own draws.

    Returns:
        A `GradientCheck`: true or false, and printable.

    Raises:
        ValueError: nothing to check, or a number that is not positive.
    """
    for name, value in (("samples", samples), ("step", step), ("tolerance", tolerance)):
        if not value > 0:
            raise ValueError(f"gradcheck_layer: {name} must be above 0 (got {name}={value})")
    layer = copy.deepcopy(layer).double()
    arguments = [_leaf(x) for x in inputs]
    tensors = {f"input {i}": x for i, x in enumerate(arguments) if _is_checked(x)}
    tensors |= {name: p for name, p in layer.named_parameters() if p.requires_grad}
    if not tensors:
        raise ValueError("gradcheck_layer: there must be a floating point input or parameter")
    buffers = {name: b.clone() for name, b in layer.named_buffers()}

    def run() -> Tensor:
        """The weighed elements of the output; their sum is the function that is differentiated."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for name, buffer in layer.named_buffers():  # running statistics move at each call
                buffer.copy_(buffers[name])
            # Copies, for a layer may write into its input.
            output = layer(*[x.clone() if isinstance(x, Tensor) else x for x in arguments])
        outputs = output if isinstance(output, tuple | list) else (output,)
        outputs = [y for y in outputs if isinstance(y, Tensor) and y.is_floating_point()]
        generator = torch.Generator().manual_seed(seed + 1)
        weighed = []
        for y in outputs:
            weights = torch.randn(y.shape, generator=generator, dtype=torch.float64)
            weighed.append((y.double() * weights.to(y.device)).flatten())
        return torch.cat(weighed)

    with torch.no_grad():
        middle = run()
    with torch.enable_grad():
        gradients = torch.autograd.grad(run().sum(), list(tensors.values()), allow_unused=True)
    rows = []
    for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
        gradient = torch.zeros_like(tensor) if gradient is None else gradient
        rows.append(_check(name, tensor.detach(), gradient, run, middle, samples, step, seed))
    return GradientCheck(rows, tolerance)


def _check(name, tensor, gradient, run, middle, samples, step, seed) -> CheckedGradient:
    found, kinks = [], 0
    for place in _sample(tensor.shape, samples, seed):
        value = tensor[place].item()
        slopes = []
        with torch.no_grad():
            for side in (step, -step):
                tensor[place] = value + side
                # Differences first: what does not depend on this element drops out exactly.
                slopes.append(float((run() - middle).sum()) / side)
            tensor[place] = value
        # Curvature and rounding make the two slopes differ, too, but by far less than a kink does.
        if abs(slopes[0] - slopes[1]) > 1e-3 * max(abs(slopes[0]), abs(slopes[1]), 1e-3):
            kinks += 1
        else:
            found.append((place, gradient[place].item(), sum(slopes) / 2))
    if not found:
        return CheckedGradient(name, float("nan"), 0, kinks, (), float("nan"), float("nan"))
    # A gradient of NaN is the worst there is, and no comparison would say so.
    gaps = [abs(b - d) if b == b else float("inf") for _, b, d in found]
    worst = max(range(len(found)), key=gaps.__getitem__)
    # Derivatives below 1e-3 are compared absolutely: what is left of them is rounding.
    scale = max(1e-3, *(abs(d) for _, _, d in found))
    return CheckedGradient(name, gaps[worst] / scale, len(found), kinks, *found[worst])


def _sample(shape: torch.Size, samples: int, seed: int) -> list[tuple[int, ...]]:
    """Up to ``samples`` different elements' places."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(shape.numel(), generator=generator)[:samples]
    places = torch.stack(torch.unravel_index(chosen, shape), 1) if len(shape) else chosen[:, None]
    return [tuple(place) if len(shape) else () for place in places.tolist()]


def _leaf(x):
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x.detach().double().contiguous().clone().requires_grad_()


def _is_checked(x) -> bool:
    return isinstance(x, Tensor) and x.requires_grad
