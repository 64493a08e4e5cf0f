"""Loss terms, one file a method. Importing this package registers them: a new one is a file and a name here."""

from model.losses import (
    ab,
    at,
    ce,
    cwtm,
    dkpp,
    embedding_mse,
    fitnet,
    fsp,
    ft,
    kd,
    logits,
    nst,
    ofd,
    reviewkd,
    self_distillation,
    vid,
)

__all__ = [
    "ab",
    "at",
    "ce",
    "cwtm",
    "dkpp",
    "embedding_mse",
    "fitnet",
    "fsp",
    "ft",
    "kd",
    "logits",
    "nst",
    "ofd",
    "reviewkd",
    "self_distillation",
    "vid",
]
