"""A run reported to MLflow, W&B, TensorBoard or files."""
