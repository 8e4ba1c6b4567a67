"""A run read back from its journal."""
