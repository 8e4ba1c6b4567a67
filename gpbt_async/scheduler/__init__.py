"""The scheduler: one run, from its start to its results, in one process on one event loop.

Its heart is `loop`: a fact arrives, is written into the journal, the engine answers with commands, and each command
ends in a fact. Around the loop stand the parts that it asks: `admission` (pause, disk, slot, folder: all that a member
passes before its process starts), `member_session` (what that process reports), `blame` (whose fault a failure was),
`disk_budget` (room for checkpoints), `watchdog` (a slot that stands idle by a bug). `startup` opens a run, `open_run`
is what it opens, `experiment_diff` is what an edited declaration changes at a resume, `run` is the whole from outside.

The waist is `Run`: applications, the command line and tests start a run by it and by nothing else.

May live here: what needs the event loop, the journal and the processes at once. Decisions that need none of them
belong into `engine`; how a process, a GPU or a file is handled belongs into `processes`, `devices` and `storage`; what
people are shown belongs into `ui`, which listens to events and is never waited for.
"""
