"""Many runs over a space of parameters: which ones, in which order, and where they are done; without torch."""
