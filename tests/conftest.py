"""Shared by all tests: Hypothesis without deadlines, since the machines that run this are shared and noisy."""

from hypothesis import settings

settings.register_profile("gpbt", deadline=None, derandomize=False)
settings.load_profile("gpbt")
