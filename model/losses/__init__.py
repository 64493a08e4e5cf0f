"""Loss terms, one file a method. Importing this package registers them: a new one is a file and a name here."""

from model.losses import at, ce, kd, logits

__all__ = ["at", "ce", "kd", "logits"]
