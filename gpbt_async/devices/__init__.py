"""GPUs and CPU cores as slots."""
