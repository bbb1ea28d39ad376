"""Models: their registry and the ones that need no weights."""
