"""Figures of the runs below a folder, one file each. Importing this package registers them."""

from . import accuracies, heat_map, learning_curves
