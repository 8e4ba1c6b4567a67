"""What a user declares, checked."""
