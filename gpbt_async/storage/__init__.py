"""A run's folder on the disk: the journal, the checkpoints, the lock, the configuration, the control FIFO.

A module lives here if it knows the names, the formats and the durability of files: what is written whole, what is
synced when, what a crash may leave behind, and how a full disk is told from a broken one. It decides nothing about a
run. It knows no engine, no process and no GPU; what a fact means is the engine's business.

The rest of the package uses these:

* `RunFolder` (folder): every path of a run, and the few files by which other processes reach it;
* `Journal`, `JournalReader` (journal): the facts, appended and read back;
* `CheckpointStore` (checkpoints): publishes a checkpoint whole, verifies it, deletes it;
* `RunConfig` (run_config): experiment.json, what a run was launched with;
* `ControlRequest`, `send` (control): what other processes may ask of a running scheduler.
"""
