"""The micro world: short English instructions and answers whose gold reward is known.

Everything is a pure function of named seeds: same seed, same bytes on any machine. No torch here. `tokenizer` is not
imported with the rest, since it alone needs another library.
"""

from pipeline.world.benchmarks import SECTIONS
from pipeline.world.gold import explain, gold
from pipeline.world.length import Versions, verbose_concise
from pipeline.world.parts import PARTS, rows
from pipeline.world.spec import World

__all__ = ["PARTS", "SECTIONS", "Versions", "World", "explain", "gold", "rows", "verbose_concise"]
