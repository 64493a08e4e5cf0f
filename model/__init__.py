"""Everything but the commands."""
