"""Boxes: (N, 4) tensors of left, top, right, bottom in pixels; right and bottom are exclusive."""

from __future__ import annotations

import torch
from torch import Tensor

# exp(this) is how much a regression may enlarge a box: wild numbers must not become infinite.
_LARGEST_LOG = 4.0


def as_boxes(values: object) -> Tensor:
    """A float32 tensor (N, 4) of anything box-like, also of nothing.

    Raises:
        ValueError: another shape.
    """
    boxes = torch.as_tensor(values, dtype=torch.float32)
    if boxes.numel() == 0:
        return boxes.reshape(0, 4)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes: must have shape (N, 4) (got {tuple(boxes.shape)})")
    return boxes


def area(boxes: Tensor) -> Tensor:
    """(N,), in pixels; 0 for boxes without inside."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair, (N, M); 0 for two empty boxes."""
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    other = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (other - corner).clamp(min=0).prod(2)
    union = area(first)[:, None] + area(second)[None] - both
    return torch.where(union > 0, both / union.clamp(min=1e-9), 0.0)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut off at the border of an image of (height, width)."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: indices of the boxes that stay, best first.

    The best box stays, those that overlap it by more than ``threshold`` (IoU) go, and so on. Of
    equal scores the first comes first.
    """
    order = scores.sort(descending=True, stable=True).indices
    overlap = iou(boxes, boxes) > threshold
    gone = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for index in order.tolist():
        if not gone[index]:
            kept.append(index)
            gone |= overlap[index]
    return torch.tensor(kept, dtype=torch.int64)


def merge(boxes: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Merge overlapping predictions into their mean, instead of dropping all but the best.

    In turn the best box that is left gathers those that overlap it by more than ``threshold``
    (IoU). The result is their mean, weighted by the scores, with the sum of their scores: many
    windows that agree count more than one, as in Sermanet et al. (OverFeat), section 4.3.

    Args:
        boxes: (N, 4).
        scores: (N,), positive.

    Returns:
        Boxes and scores, best first.
    """
    order = scores.sort(descending=True, stable=True).indices
    overlap = iou(boxes, boxes) > threshold
    overlap.fill_diagonal_(True)
    free = torch.ones(len(boxes), dtype=torch.bool)
    merged, totals = [], []
    for index in order.tolist():
        if not free[index]:
            continue
        group = overlap[index] & free
        free &= ~group
        weights = scores[group]
        merged.append((boxes[group] * weights[:, None]).sum(0) / weights.sum())
        totals.append(weights.sum())
    if not merged:
        return as_boxes([]), scores.new_zeros(0)
    totals = torch.stack(totals)
    order = totals.sort(descending=True, stable=True).indices
    return torch.stack(merged)[order], totals[order]


def encode(boxes: Tensor, targets: Tensor) -> Tensor:
    """What a regression has to learn to move ``boxes`` onto ``targets``, both (N, 4).

    Shift of the centre as a share of the box's size, and logarithm of the ratio of the sizes, x
    before y: Girshick et al., "R-CNN", arXiv:1311.2524, appendix C.
    """
    centre, size = _centre_size(boxes)
    target_centre, target_size = _centre_size(targets)
    return torch.cat([(target_centre - centre) / size, (target_size / size).log()], dim=1)


def decode(boxes: Tensor, moves: Tensor) -> Tensor:
    """Boxes (N, 4) moved as `encode` says; a side grows or shrinks by a factor of 55 at most."""
    centre, size = _centre_size(boxes)
    centre = centre + moves[:, :2] * size
    size = size * moves[:, 2:].clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + size / 2, size
