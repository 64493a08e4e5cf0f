"""Loss terms, one file a method. Importing this package registers them: a new one is a file and a name here."""

from model.losses import ce, cwtm, dkpp, kd, logits, self_distillation

__all__ = ["ce", "cwtm", "dkpp", "kd", "logits", "self_distillation"]
