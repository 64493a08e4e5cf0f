"""Looking closely at one network."""
