"""What came out of many runs: collected from their folders, without torch."""
