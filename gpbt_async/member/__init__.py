"""What runs in the training process: the Member that a script gets, and what we observe there.

Programs:  member_main (the member), zygote_main (the process that imports the script once and forks members)
Script:    script (import it), fork_hazards (what in it does not survive a fork), user_code (whose line is this?)
Member:    api (class Member), config, parent, alone (`run_alone`), breakpoints, failure (an exception and its remedy)
Watches:   seed_watch, split_watch, load_watch, weights; they note in telemetry, and hooks installs them
gpbt.torch: optimizers, parameter_groups, lr_schedulers
Libraries: config_adapters (YAML, JAX, torch), hydra

A member pays for each import, so a module here imports the standard library only, and torch or numpy only where the
script has loaded them. Nothing here may break the user's script: what a watch does must not raise into it.

The scheduler never imports this folder; it starts the two programs by name and talks to them through
`processes.wire`. Others use `api.Member` and `alone.run_alone`; `gpbt_async.torch` uses the optimizers' modules.
"""
