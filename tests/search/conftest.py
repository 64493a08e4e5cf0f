"""Fixtures of the clusters that tests of executors run on."""

from tests.search.executors.clusters import ray_cluster, slurm

__all__ = ["ray_cluster", "slurm"]
