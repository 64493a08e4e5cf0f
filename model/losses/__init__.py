"""Loss terms, one file a method. Importing this package registers them: a new one is a file and a name here."""

from model.losses import ce, kd, logits

__all__ = ["ce", "kd", "logits"]
