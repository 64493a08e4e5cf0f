"""Data sets, one file each. Importing this package registers them: a new one is a file and a name here."""

from . import arrays, cifar, cifar10_mini, image_folder, image_huggingface, image_table, mnist
