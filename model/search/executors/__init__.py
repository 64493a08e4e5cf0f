"""Where the runs of a search are done: on this machine, on Ray, on SLURM."""
