"""The loop, and the Run around it."""
