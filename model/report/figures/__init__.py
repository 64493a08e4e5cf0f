"""Figures of the runs below a folder, one file each. Importing this package registers them."""

from . import accuracies, costs, differences, heat_map, learning_curves
