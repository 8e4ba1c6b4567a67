"""Terminal and browser."""
