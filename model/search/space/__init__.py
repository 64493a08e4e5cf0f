"""What a search varies: search.json, the points of its space, and the names of their folders."""
