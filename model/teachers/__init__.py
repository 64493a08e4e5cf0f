"""Teachers: a live network, an ensemble of several, or a network whose outputs are cached on disk."""
