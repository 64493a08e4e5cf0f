"""Importing this package registers every data set: one line each."""

from model.data import arrays as arrays
from model.data import cifar as cifar
from model.data import cifar10_mini as cifar10_mini
from model.data import image_folder as image_folder
from model.data import mnist as mnist
