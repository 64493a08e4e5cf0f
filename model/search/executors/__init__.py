"""Executors of runs, one file each. Importing this package registers them: a new one is a file and a name here."""

from . import local, ray, slurm
