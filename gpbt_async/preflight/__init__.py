"""The pre-flight: is what is searched what is trained?

A tuner's worst failure is to finish, exit with 0, and have searched noise, because an ordinary script did not train
what was searched. The pre-flight finds that out while the first members train. It trains nothing twice and delays
nothing.

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
