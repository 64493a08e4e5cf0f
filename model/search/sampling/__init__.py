"""Who proposes the next trial, and who stops a bad one early."""
