"""Evolution: how features come about in the course of training.

Zeiler & Fergus, arXiv:1311.2901, section 4 and figure 4: for chosen maps, the strongest activation
of all images, projected to pixels, after several epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastconv._layers import device_of
from fastconv.visualize.deconvnet import Deconvnet
from fastconv.visualize.pictures import enlarge, grid, signed_picture
from fastconv.visualize.top_patches import patches, top_activations


class Evolution(NamedTuple):
    """One layer's maps over epochs.

    ``epochs`` (E,) and ``maps`` (M,); ``values`` and ``indices`` (M, E): the strongest activation
    and its image in the data set; ``projections`` (M, E, C, h, w).
    """

    layer: str
    epochs: list[int]
    maps: list[int]
    values: np.ndarray
    indices: np.ndarray
    projections: np.ndarray

    def picture(self, side: int = 90) -> np.ndarray:
        """A row for each map, epochs from left to right; every projection has its own contrast."""
        tiles = [enlarge(signed_picture(p), side) for row in self.projections for p in row]
        return grid(tiles, len(self.epochs), gap=3)


def evolution(
    run: Any,
    dataset: Any,
    layers: Sequence[str],
    maps: Sequence[Sequence[int]],
    *,
    epochs: Sequence[int] | None = None,
    backward: str = "deconvnet",
    limit: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> list[Evolution]:
    """How maps develop over a run's snapshots; one pass over the data for each of them.

    Args:
        run: a run that was trained with ``snapshots``; its model ends with the weights it had.
        dataset: gives ``(image, target)``, as for `top_activations`.
        layers: names of layers.
        maps: for each layer, which of its maps.
        epochs: snapshots; None: all.
        limit, batch_size, workers: as for `top_activations`.
        progress: called with snapshots done and snapshots in all.

    Raises:
        ValueError: the run has no snapshots, or not of these epochs.
    """
    epochs = list(run.snapshots if epochs is None else epochs)
    if not epochs:
        raise ValueError(
            f"evolution: {run.path} has no snapshots; train with --snapshots 1,2,5,10 to keep some"
        )
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    weights = run.weights
    found: dict[str, list[tuple]] = {layer: [] for layer in layers}
    try:
        for done, epoch in enumerate(epochs, 1):
            run.load_weights(epoch)
            deconvnet = Deconvnet(run.model, backward)
            tops = top_activations(
                run.model,
                dataset,
                layers,
                top=1,
                limit=limit,
                batch_size=batch_size,
                workers=workers,
            )
            for layer, chosen in zip(layers, maps, strict=True):
                top = tops[layer]
                shown = []
                for map in chosen:
                    image = dataset[int(top.indices[map, 0])][0][None].to(device_of(run.model))
                    shown.append(
                        patches(deconvnet, layer, map, top.positions[map], image).projections[0]
                    )
                chosen = list(chosen)
                found[layer].append(
                    (top.values[chosen, 0], top.indices[chosen, 0], np.stack(shown))
                )
            if progress is not None:
                progress(done, len(epochs))
    finally:
        run.model.load_state_dict(before)
        run.weights = weights
    result = []
    for layer, chosen in zip(layers, maps, strict=True):
        values, indices, projections = (np.stack(x, 1) for x in zip(*found[layer], strict=True))
        result.append(Evolution(layer, epochs, list(chosen), values, indices, projections))
    return result
