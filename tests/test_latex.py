"""Tables in LaTeX compile, those in results/ and those with every special character."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.config import PROJECT
from pipeline.table.formats import TEX, tex

LATEX = shutil.which("pdflatex")
TABLES = sorted((PROJECT / "results" / "tables" / "micro").glob("*.tex")) + sorted(
    (PROJECT / "tests" / "golden").glob("*.tex")
)


@pytest.mark.skipif(LATEX is None, reason="needs pdflatex: apt install texlive-latex-recommended")
def test_tables_compile_and_no_character_is_lost(tmp_path: Path):
    every = f"\\begin{{table}}\\caption{{{tex(''.join(TEX))}}}\\end{{table}}"
    body = "\n".join(f"{path.read_text()}\\clearpage" for path in TABLES)
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "all.tex").write_text(f"{head}{body}\n{every}\n\\end{{document}}\n")
    assert LATEX is not None, "else skipped"
    command = [LATEX, "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Missing character" not in made.stdout and (tmp_path / "all.pdf").stat().st_size > 10_000
