"""Training: the loop, optimizers, schedules, precision, processes. It is handed networks, losses and data."""

from . import optimizers, schedules
