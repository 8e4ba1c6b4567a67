"""User interfaces: a run shown in a terminal, a notebook, a browser, and as text.

Terminal:  frame (what is shown, as plain data), terminal (how and when: redrawn, or as log lines), text, attached (the
           same view for a run of another process)
Text:      summaries (what the commands print)
Browser:   html_report (one file), live (a report's data, kept up to date), web_server and web_auth (pages), assets/
           (scripts)

A user interface reads and never decides: it takes a run's state from the engine, the journal or a report's data
(`analysis.report_data`). It never delays a run, and an error in it never ends one. Lines are plain data, `list[(text,
style)]`, so that tests need no terminal; rich draws them. Texts of a user enter a page only as text.

Others use `terminal.show`, `summaries`, `html_report.write` and `web_server.app`.
"""
