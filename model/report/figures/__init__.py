"""Figures of the runs below a folder, one file each. Importing this package registers them."""

from . import (
    accuracies,
    classes,
    confusion,
    costs,
    differences,
    exits,
    generations,
    heat_map,
    importances,
    learning_curves,
    parallel_coordinates,
    reliability,
)
