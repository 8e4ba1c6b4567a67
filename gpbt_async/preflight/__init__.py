"""The pre-flight: is what is searched really what is trained?

A tuner's worst failure is to finish, exit with 0, and have searched noise, because an ordinary script did not train
what was searched. This folder finds that out while the first members train: nothing is trained twice, nothing waits.

    config      a member's config, which records which of its values the script reads (in the member's process)
    telemetry   all that a member's process notes about itself, and sends with its End (in the member's process)
    seeding     who seeds python's, numpy's and torch's random numbers again (in the member's process)
    loading     what torch loads, and what that brings back (in the member's process)
    splits      which split of the data a member is judged by (in the member's process)
    weights     whether gpbt.torch saves what was trained (in the member's process)
    parent      whether the parent's path is used (in the member's process)
    findings    the catalogue: every finding has a name (GPBT001 …), a title and a remedy
    heirs       whether a child's score depends on its training; pure
    checks      facts and telemetry in, findings out; pure, and used by a run (`launch`) and by `doctor` alike
    remedies    what to do about an error that is known, and whether it passes (in the member's process)
    failures    members of a generation that failed, those alike taken together

The waist is `Finding`: one thing that is wrong, by name, in one sentence, with what to do about it. It is a fact of
the journal (`events.Found`), so `status`, `report` and the end of a run repeat it. The engine decides nothing by it.
"""

from __future__ import annotations
