"""Tables: a YAML of rows, columns and seeds becomes wanted artefacts, and their manifests become a table. No torch,
no data files.

`spec` is what a YAML may say, `cells` what it asks for and what was found, `formats` the texts, `settings` who says
what it is made with.
"""

from pipeline.table.cells import Cell, Difference, Table, experiments, fill, wanted
from pipeline.table.formats import FORMATS, markdown, render
from pipeline.table.settings import lines as setting_lines
from pipeline.table.settings import sources
from pipeline.table.spec import Column, Published, RowSpec, Spec, load, names, read

__all__ = [
    "FORMATS",
    "Cell",
    "Column",
    "Difference",
    "Published",
    "RowSpec",
    "Spec",
    "Table",
    "experiments",
    "fill",
    "load",
    "markdown",
    "names",
    "read",
    "render",
    "setting_lines",
    "sources",
    "wanted",
]
