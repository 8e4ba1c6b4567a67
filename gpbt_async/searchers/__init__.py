"""From an Ask to a config."""
