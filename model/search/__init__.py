"""Searches: many runs over a space of parameters, proposed by a sampler and executed by an executor; without torch."""
