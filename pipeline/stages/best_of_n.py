"""How good is what a reward model picks among N samples, by the gold reward, and from which N on does more choice hurt?

Means over prompts of the unbiased estimator: `gold@N` of the choice, `proxy@N` as the reward model sees it, `oracle@N`
where the gold reward itself chooses; `kl@N` in nats; and as `bon/...` the fit of Gao et al. to the gain in gold, with
its turning point in sqrt(KL). `RL`'s form needs a policy's training curve and is not fitted here.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from pipeline import rows
from pipeline.metrics import best_of_n
from pipeline.stage import Inputs, Sections


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    data, ns = rows.read(inputs["gold"]), x.best_of_n.ns
    rewards: dict[str, list[float]] = defaultdict(list)
    for scored in rows.read(inputs["score"], "scores"):
        rewards[scored["id"]].append(scored["reward"])
    proxy = np.array([rewards[row["id"]] for row in data], dtype=float)  # (prompts, samples)
    gold = np.array([row["gold"] for row in data])
    picked, seen, best = (best_of_n.expected(*by, ns) for by in ((proxy, gold), (proxy, proxy), (gold, gold)))
    examples = [
        {
            "id": row["id"],
            "cluster": row["cluster"],
            "subset": row["family"],
            "n": n,
            "gold": picked[i, at],
            "proxy": seen[i, at],
            "oracle": best[i, at],
        }
        for i, row in enumerate(data)
        for at, n in enumerate(ns)
    ]
    rows.write(out, examples, "examples")
    return {
        **best_of_n.score(proxy, gold, ns),
        **{f"oracle@{n}": float(value) for n, value in zip(ns, best.mean(axis=0), strict=True)},
        **{f"kl@{n}": float(value) for n, value in zip(ns, best_of_n.kl(ns), strict=True)},
    }
