"""The quality benchmark: how good are the models at the same number of intervals, ours and other methods'?

    python -m bench.quality run main --seeds 0-2        # from the repository's root; can be interrupted at any time
    python -m bench.quality report                      # the tables and plots of what there is
    python -m bench.quality admit embedding             # can this task tell methods apart?
    python -m bench.quality again --share 0.05          # do stored rows come out again?

bench/README.md is the protocol, written before there were results. The rooms, imports pointing down only:

    __main__            the command line: run, report, admit, again
    report  again       rows → tables and plots; rows → the same rows?
    admission           can a task tell the best config, the best schedule and random search apart?
    statistics          paired differences: t intervals, Wilcoxon, Holm
    driver  rows        what is still to be run, one row a run; the file of rows, appended to and never changed
    protocol            which tasks, seeds, methods and blocks: tuning and confirmation kept apart
    methods             a method's name → a function from (task, slots, seed) to a Record
    ours  pbt  full_runs  ray_tune
                        the product's engine; PBT; Optuna, random; Ray's own PBT and PB2
    schedules  plans  mf_pbt  fire_pbt
                        schedules made by hand, tuned by a search; one plan for all; two PBTs meant to be less greedy
    candidates  genealogy  lineage  classes
                        what might be better than the product's default; none of it in the product
    clock  record       a virtual clock with slots; what a run came to
    tasks  networks  worlds  trap
                        what is optimised: the waist, small networks, what is no network
    text  images  descent
                        networks whose schedule matters: letters, pictures, and the SGD that trains both
    rl  games  agents   reinforcement learning: swinging a pole up, a game, and what their learners share
    embedding           a map of digits, drawn by gradient descent: no network
    environment         libraries, kernels and processor: what is fixed of them, and which rows may be paired
"""

from .environment import pin

pin()
