"""The pre-flight: does the script train with the configs that the run searches?

The worst failure of a tuner is a run that finishes with exit status 0 and has searched noise, because the script did
not use its config, its seed or its parent's checkpoint. The pre-flight looks for such faults while the first members
train. It needs no extra training and delays nothing.

* `checks`: facts and observations in, findings out. A run (`launch`), `doctor` and `try` use the same checks.
* `observations`: what a member's process observed, and what several members' observations show together.
* `scores`: what the first members' scores show.
* `failures`: the failed members of a generation, grouped by reason.

The waist is `Preflight` (checks), which yields `Finding`s (gpbt_async/findings.py, the catalogue): one thing that is
wrong, by name, in one sentence, and what to do about it. A finding becomes a fact of the journal (`events.Found`), so
`status`, `report` and the end of a run repeat it. The engine decides nothing by it.

May live here: pure judgements about a script, without clock, file or process. What watches a script while it trains
runs in the member's process and lives in `member` (telemetry, config, seed_watch, load_watch, split_watch, weights).
"""
