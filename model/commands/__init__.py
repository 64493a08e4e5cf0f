"""What the commands do, one file a command, and what they share before and after a run."""
