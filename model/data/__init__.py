"""Importing this package registers every data set: one line each."""

from model.data import cifar as cifar
