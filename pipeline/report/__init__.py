"""The report: one HTML file that holds what ran, the verdicts, tables, figures and examples, with all they need.

`found` reads what is on disk, `page` puts the sections together, `markup` escapes. Nothing is measured or judged here.
"""
