"""Teachers: a live network, several of them, or the cached outputs of one."""
