"""Seeing inside: the pictures that show what a trained network has learned.

```python
from fastconv import Run, visualize

run = Run.open("runs/pets")
projection = visualize.Deconvnet(run.model)(run.preprocess("cat.jpg"), "relu5")
visualize.save(visualize.signed_picture(projection.pixels[0]), "cat-relu5.png")
```

Functions take a model and tensors, and give arrays; what draws gives a matplotlib figure.
``fastconv visualize RUN`` puts them together as pages.
"""

from fastconv._layers import features, main_layers
from fastconv._receptive_field import receptive_field, receptive_fields
from fastconv.visualize.card import Card, CardRow, model_card
from fastconv.visualize.deconvnet import Deconvnet, Projection
from fastconv.visualize.diagnostics import (
    diagnose_activity,
    diagnose_history,
    diagnose_scales,
    histogram_figure,
    layer_activity,
    layer_costs,
    parameter_scales,
    response_figure,
    scales_figure,
    sparseness_figure,
)
from fastconv.visualize.evolution import evolution
from fastconv.visualize.feature_maps import feature_maps, maps_picture
from fastconv.visualize.filters import filter_measures, filters_picture, first_layer_filters
from fastconv.visualize.gradcheck import gradcheck_layer
from fastconv.visualize.invariance import change, invariance, invariance_figure
from fastconv.visualize.occlusion import occlusion
from fastconv.visualize.pictures import (
    enlarge,
    grid,
    map_picture,
    pixel_picture,
    save,
    signed_picture,
)
from fastconv.visualize.top_patches import patches, top_activations

__all__ = [
    "Card",
    "CardRow",
    "Deconvnet",
    "Projection",
    "change",
    "diagnose_activity",
    "diagnose_history",
    "diagnose_scales",
    "enlarge",
    "evolution",
    "feature_maps",
    "features",
    "filter_measures",
    "filters_picture",
    "first_layer_filters",
    "gradcheck_layer",
    "grid",
    "histogram_figure",
    "invariance",
    "invariance_figure",
    "layer_activity",
    "layer_costs",
    "main_layers",
    "map_picture",
    "maps_picture",
    "model_card",
    "occlusion",
    "parameter_scales",
    "patches",
    "pixel_picture",
    "receptive_field",
    "receptive_fields",
    "response_figure",
    "save",
    "scales_figure",
    "signed_picture",
    "sparseness_figure",
    "top_activations",
]
