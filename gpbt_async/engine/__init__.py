"""The engine: which member trains next, from which parent, with which config, and which checkpoint may go.

What lives here is pure: a function of the facts of the journal and the experiment's settings. No clock, no files, no
processes, no asyncio, and no random numbers but those keyed by (seed, path). Therefore a journal that is replayed gives
the state that wrote it, a resume is a replay, and `simulate` runs a policy of days in seconds.

* `engine`: the state machine. Facts go into `Engine.handle`, commands come out.
* `tree`: the members and generations (`Node`, `State`, `Generation`, `Tree`), with no rule in it.
* `selection`: the breeding rule: the next member and its parent. Read it to know how GPBT works.
* `upcoming`: the next members by that rule, kept between two facts, and what the searcher is asked for them.
* `early_stopping`, `termination`, `retention`, `adoption`: one rule each, asked by the engine.
* `final_choice`: which member a finished run hands out.
* `generalisation`: whether what the score gains is found in other metrics; decides nothing.
* `searcher_view`: the Ask that a searcher gets, read off the tree.

The waist is `Engine` (`handle`, `outstanding`, `ask`, and what it shows for reading), with `Node` and `State`. Nothing
outside calls a method that changes the tree.
"""
