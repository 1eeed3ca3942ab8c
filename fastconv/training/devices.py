"""Which device a run computes on."""

from __future__ import annotations

import torch


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """``auto`` is CUDA where it is there, else the CPU.

    Args:
        name: auto, cpu, cuda or cuda:N.
        local_rank: number of this process among those of this machine, where there are several:
            each takes the GPU of its number.

    Raises:
        ValueError: no such device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: must be auto, cpu, cuda or cuda:N (got {name!r})") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: must be auto, cpu, cuda or cuda:N (got {name!r})")
    if device.type == "cuda" and local_rank is not None:
        if device.index is not None:
            raise ValueError(
                f"device: must be auto, cpu or cuda for several processes (got {name})"
            )
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {device} is not here ({torch.cuda.device_count()} CUDA devices)")
    return device
