"""Who trains next, and from whom: pure."""
