"""Random numbers are inputs: a random op draws by Philox from a seed that it is given."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_seed(input: Tensor, generator: torch.Generator | None) -> Tensor:
    """One int64 on ``input``'s device, drawn from ``generator`` (``None``: torch's default)."""
    device = input.device if generator is None else generator.device
    seed = torch.randint(2**63 - 1, (1,), generator=generator, device=device)
    return seed.to(input.device)
