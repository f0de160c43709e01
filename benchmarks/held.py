"""How much memory tensors hold, by torch's own record of what its CPU allocator gave and took back. What libraries keep
for themselves is not in it. Recording is slow: not for what is timed.
"""

from contextlib import AbstractContextManager
from operator import itemgetter
from typing import Any

from torch.profiler import ProfilerActivity, profile


class Held(AbstractContextManager["Held"]):
    """While open, watches what tensors hold beyond what they held before."""

    most = 0.0  # MB, once closed

    def __enter__(self) -> "Held":
        self.watch = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.watch.__exit__(*error)
        found = self.watch.profiler.kineto_results.events()  # type: ignore[union-attr]  # it has run
        now = 0
        changes = [(e.start_ns(), e.nbytes()) for e in found if e.name() == "[memory]"]  # type: ignore[attr-defined]  # no stub
        for _, change in sorted(changes, key=itemgetter(0)):
            now += change
            self.most = max(self.most, now / 1e6)
