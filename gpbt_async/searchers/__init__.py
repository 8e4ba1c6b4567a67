"""From an Ask to a config.

The waist is `Searcher.suggest(ask) -> config`, a pure function (searcher.py). What may live here: searchers of ours
(local.py, tpe.py, kin.py, optuna.py), the list of them (registry.py), and the process that runs the heavy ones:
client.py asks it from the scheduler's side, searcher_main.py is the program. Numerical libraries are imported inside
functions, and only in that process. A searcher gets everything in the Ask: nothing here reads a run or the engine.
"""
