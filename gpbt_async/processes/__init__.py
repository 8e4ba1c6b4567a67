"""Processes of a run: how they are started, heard, stopped, and never left behind.

What may live here: linux.py knows the kernel (process trees, subreapers, descriptors over sockets); guardian.py starts
every process by way of guardian_main.py, the one process that outlives the scheduler and cleans up behind it; zygote.py
gets members as forks of a process that has imported the script, and zygote_messages.py has the types of its messages;
launcher.py is the scheduler's one way to a new process; worker.py is one member's process, wire.py the messages to and
from it, outcome.py how its attempt ended; program.py is a member in any language; deadlock.py proves that a fork hangs;
remedies.py knows what helps; helper_process.py is a program of ours that is talked to over a socket. `X_main.py` is a
program that runs in another process, `X.py` our handle on it.

The waist: `async with await launcher.start(begin) as worker`, an iterator of messages, then `worker.outcome`. Leaving
the block means that the process and everything it started is gone. Nothing here knows the engine, the journal or GPUs.
Members and the guardian pay for what they import here: no module of this folder is imported by its `__init__`.
"""
