"""The declaration: what a user's script says, checked where it is said.

What lives here serves the two modules that users write with, `experiment` and `space`, and belongs to the vocabulary
with them: it is pure, imports no other folder, and every training script pays for its import. A mistake is refused at
the line that makes it, with what is allowed and what was probably meant; nothing is repaired silently.

* `arguments`: misspelt and missing arguments, and the checks of plain values.
* `foreign`: values of other tuners, and bounds that cannot be.
* `direction`: whether more or less is better, from the score's name.
* `resources`, `run_options`: what a member and a run need of the machine.
* `target`, `address`: where the training function and the script are.
* `standalone`: the hint for a script that was run with `python` instead of launched.

The waist is `Resources`, `Target`, `RunOptions`, `Address`, and ExperimentError.
"""
