"""What a plan costs before it runs: tokens, floating-point operations, hours, memory, GPUs, disk. No torch.

`sheet` has data sheets, shapes and assumed lengths (conf/cost.yaml), `memory` and `work` the formulas, `estimate` an
artefact's cost at a place, `fit` the place that has room for it, `show` the lines.
"""

from pipeline.cost.sheet import gpu
from pipeline.cost.show import given, lines, of

__all__ = ["given", "gpu", "lines", "of"]
