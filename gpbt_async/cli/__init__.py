"""The command line: one thin user interface among several, over the same public classes.

A module that is named like a command (or like a family of commands: `runs`, `results`) declares its options and its
help, and nothing else runs when it is imported, because `--help` and Tab import all of them. The work is imported
inside the command:

    launch resume replay watch   foreground: a Run driven to its end, with signals and a live view
    doctor                       examination trains members with probes, measurements records, diagnosis judges
    plan                         forecast: the run on a virtual clock; the doctor uses it, too
    try                          single_member: one member in this process
    gpus                         inventory: what NVML sees, and what a run would use of it

`options` holds every option that two commands share, `completion` what Tab offers, `output` what commands print with,
`app` the list of commands, `commands` how a command is built when it is typed, and its values read, quickly.
Belongs elsewhere: anything that a program would use without a command line (scheduler, analysis), and how a run looks
in a terminal (ui). The waist is `app.main`; nothing below imports this folder.
"""
