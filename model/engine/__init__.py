"""Training: the loop, teachers, optimizers, schedules, precision. It is handed networks, losses and data as objects."""

from model.engine import optimizers, schedules

__all__ = ["optimizers", "schedules"]
