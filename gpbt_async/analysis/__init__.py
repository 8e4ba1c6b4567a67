"""What a run did: its journal replayed, and the tables, reports and figures that follow from it.

* `run_fold`: the fold of a journal's facts into engine and usage. The scheduler applies its own facts through it, too.
* `reader`: a run read from its folder by another process. `status`, `watch`, the pages and every export use it.
* `usage` and `history`: where the slots' time went; what happened when, and why.
* `run_summary`, `importance`, `ancestry`: the summary, the hyperparameters' effects, and why a member exists.
* `report_data`, `table`, `trace`, `bundle`: a run as a report's data, as rows, for Perfetto, and as a folder
  to take home.
* `heldout`: what metrics that selected nothing say: how the best was chosen by one, and how they follow the score.
* `logs`: the ends of members' logs and curves, and the notes of a run that failed.

The waist is `RunReader`: open a run with it, then pass it to what is wanted. Where the scheduler has an engine already,
`run_summary` takes that.

May live here: what reads a run and changes nothing. It needs neither an event loop nor a process, takes no lock, and
knows no colour, width or page (they belong into `ui`); what decides something belongs into `engine`.
"""
