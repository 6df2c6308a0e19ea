"""The comparisons of the parity report, by group: GROUPS of rows that must agree, DIFFERENCES that are on purpose."""

from benchmarks.parity_rows import (
    checkpoints,
    classification,
    colours,
    contrastive,
    crops,
    differences_losses,
    differences_networks,
    differences_optimizers,
    differences_views,
    layers,
    networks,
    optimizers,
    steps,
)

_ROWS = (crops, colours, contrastive, classification, networks, layers, optimizers, steps, checkpoints)
_ON_PURPOSE = (differences_views, differences_losses, differences_networks, differences_optimizers)

GROUPS = {module.GROUP: module.ROWS for module in _ROWS}
DIFFERENCES = {module.GROUP: module.DIFFERENCES for module in _ON_PURPOSE}
