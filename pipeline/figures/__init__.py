"""Figures of the papers: a YAML names a kind, a table whose rows and seeds it shows, and what to read; files and
metrics of the store become a picture. A figure makes no claim, and whatever it shows stands in an artefact."""
