"""Lesion instances and their table."""
