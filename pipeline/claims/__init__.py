"""Claims of the papers, each with the verdict that the artefacts give. No verdict is written by hand.

`spec` is what conf/claim/*.yaml may say, `verdicts` how a claim is put to the test, `formats` the texts.
"""

from pipeline.claims.formats import render, text
from pipeline.claims.spec import Claim, Term, load
from pipeline.claims.verdicts import Asked, Finding, ask, judge, wanted

__all__ = ["Asked", "Claim", "Finding", "Term", "ask", "judge", "load", "render", "text", "wanted"]
