"""A run reported to MLflow, Weights & Biases, TensorBoard, or files.

A tracker is a class of tracked.Tracker. What may live here: trackers of ours (mlflow.py, wandb.py, tensorboard.py,
files.py), the list of them (registry.py), and what feeds them. follower.py reads a run's folder and calls a tracker;
tracker_main.py does so in a process of its own, one a tracker, which client.py starts and ends from the scheduler's
side. So whatever a tracker does, imports, waits, raises or dies, the run never notices. The scheduler uses
client.Tracking, the command `track` tracker_main.foreground.
"""
