"""Training: the loop, teachers, optimizers, schedules, precision. It is handed networks, losses and data as objects."""

from model.training import optimizers, schedules

__all__ = ["optimizers", "schedules"]
