"""A fixed set of rows that a reward model scores again and again while it is trained, so that over-optimisation shows
as a curve; and, at the start and at the end, exact gradients of some of its pairs, which ‖h_w − h_l‖ stands for where
a head gives the reward.

Rows are those of the generalization sets: a prompt, its responses, their gold scores. They are scored as everything is
(`scoring`). `step` is the number of updates made before. Records are training state, so that a resumed run ends in the
same bytes. What they say is computed by `metrics/dynamics.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import models, packing, rows, scoring
from pipeline.conversations import Asked
from pipeline.dynamics import effective_rank
from pipeline.metrics import dynamics as metrics
from pipeline.packing import Group
from pipeline.rows import Row

GRADIENT_ROWS = 8  # of each set: an exact gradient costs a forward and a backward pass of one pair
Pair = tuple[int, int, int]  # row, its best response by gold, its worst


class Probe(nn.Module):
    """Looks at the start, every so many steps, and at the end."""

    scored: Tensor  # (times, responses, 2) reward and ‖h‖
    ranks: Tensor  # (times, sets) effective rank
    gradients: Tensor  # (times, pairs, 3) Δ, and the norm of its gradient in the head and in the backbone

    def __init__(
        self, data: Sequence[Row], tokenizer: PreTrainedTokenizerBase, steps: int, every: int, headed: bool = True
    ):
        super().__init__()
        self.data, self.tokenizer = data, tokenizer
        self.times = sorted({*range(0, steps, every), steps})
        self.places = [(row, i) for row in range(len(data)) for i in range(len(data[row]["responses"]))]
        self.sets = list(dict.fromkeys(row["set"] for row in data))
        some = [pair for name in self.sets for pair in best_and_worst(data, name)[:GRADIENT_ROWS]]
        self.pairs = some if headed else []
        shapes = {"scored": (len(self.places), 2), "ranks": (len(self.sets),), "gradients": (len(self.pairs), 3)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full((len(self.times), *shape), torch.nan))

    @property
    def ends(self) -> dict[int, str]:
        """Which of the times have gradients; of no steps, there is one time."""
        return {0: "start"} | {len(self.times) - 1: "end"}

    def look(self, step: int, model: PreTrainedModel, tokens: int) -> None:
        """If it is time; with at most `tokens` tokens in a forward pass."""
        if step not in self.times:
            return
        at, training = self.times.index(step), model.training
        model.eval()
        reward, hidden = self.read(model, tokens)
        self.scored[at] = torch.stack([reward, hidden.norm(dim=-1)], dim=1)
        of = [self.data[row]["set"] for row, _ in self.places]
        for column, name in enumerate(self.sets):
            self.ranks[at, column] = effective_rank(hidden[[i for i, other in enumerate(of) if other == name]])
        if at in self.ends and self.pairs:
            self.gradients[at] = difference_gradients(model, self.groups(model))
        model.train(training)

    def read(self, model: PreTrainedModel, tokens: int) -> tuple[Tensor, Tensor]:
        """(n,) rewards and the (n, d) representations that they are read from, of all responses."""
        asked = [Asked(rows.asked_of(row), row["responses"]) for row in self.data]
        stream = scoring.stream(model, self.tokenizer, asked, tokens)
        made = {
            (s.row, i): (reward, hidden)
            for s in (scored for batch in stream for scored in batch)
            for i, reward, hidden in zip(s.at, s.reward, s.hidden, strict=True)
        }
        reward, hidden = zip(*(made[place] for place in self.places), strict=True)
        return torch.stack(reward), torch.stack(hidden)

    def groups(self, model: PreTrainedModel) -> Iterator[Group]:
        """Of `pairs`, cut as they are for scoring."""
        limit = scoring.max_length(model, self.tokenizer)
        for row, *pair in self.pairs:
            asked = Asked(rows.asked_of(self.data[row]), [self.data[row]["responses"][i] for i in pair])
            found = scoring.conversations(self.tokenizer, [asked], [0], limit)
            talks = sorted((talk for of_prompt in found for talk in of_prompt), key=lambda talk: talk.of)
            yield scoring.group(talks, scoring.shared_by(talks))

    # --- what is written ---

    def responses(self, at: int) -> list[Row]:
        """One row each; `length` is in characters."""
        return [
            {
                **self.place(at, row),
                "response": i,
                "gold": self.data[row]["gold"][i],
                "length": len(self.data[row]["responses"][i]),
                "reward": reward,
                "norm": norm,
            }
            for (row, i), (reward, norm) in zip(self.places, self.scored[at].tolist(), strict=True)
        ]

    def by_set(self, at: int) -> list[Row]:
        taus = metrics.taus(columns(self.responses(at)))
        return [
            {"step": self.times[at], "set": name, "tau": taus[name], "effective_rank": rank}
            for name, rank in zip(self.sets, self.ranks[at].tolist(), strict=True)
        ]

    def by_pair(self, at: int) -> list[Row]:
        return [
            {
                **self.place(at, row),
                "chosen": best,
                "rejected": worst,
                "delta": delta,
                "distance": head,
                "backbone": body,
            }
            for (row, best, worst), (delta, head, body) in zip(self.pairs, self.gradients[at].tolist(), strict=True)
        ]

    def place(self, at: int, row: int) -> Row:
        return {"step": self.times[at], "set": self.data[row]["set"], "id": self.data[row]["id"]}

    def write(self, out: Path) -> dict[str, float]:
        """probe.parquet: a row for each response and time; probe_steps.parquet: for each set and time;
        gradients.parquet: for each pair, start and end, if there are any. Returns what they say."""
        every = range(len(self.times))
        rows.write(out, [row for at in every for row in self.responses(at)], "probe")
        rows.write(out, [row for at in every for row in self.by_set(at)], "probe_steps")
        if self.pairs:
            rows.write(out, [row for at in self.ends for row in self.by_pair(at)], "gradients")
        said = metrics.of_probe(columns(self.responses(-1)))
        said |= {f"{row['set']}/effective_rank": row["effective_rank"] for row in self.by_set(-1)}
        for at, name in self.ends.items() if self.pairs else ():
            said |= {f"{name}/{key}": v for key, v in metrics.of_gradients(columns(self.by_pair(at))).items()}
        return {f"probe/{name}": value for name, value in said.items()}


def best_and_worst(data: Sequence[Row], name: str) -> list[Pair]:
    """Of the rows of one set whose responses are not all equally good."""
    graded = [(i, row["gold"]) for i, row in enumerate(data) if row["set"] == name]
    return [(i, g.index(max(g)), g.index(min(g))) for i, g in graded if max(g) > min(g)]


def columns(made: Sequence[Row]) -> dict[str, list]:
    return {name: [row[name] for row in made] for name in made[0]}


def difference_gradients(model: PreTrainedModel, groups: Iterable[Group]) -> Tensor:
    """(n, 3) Δ of each pair and the norms of its gradient, by autograd one pair after the other: with respect to the
    head and to what is trained of the backbone. A pair's BT gradient is σ(−Δ) times that."""
    head = models.head(model).weight
    body = [p for p in model.parameters() if p.requires_grad and p is not head]
    made = []
    for group in groups:
        reward, _ = models.rewards(model, packing.layout([group], device=str(model.device)))
        delta = reward[0] - reward[1]
        of_head, *of_body = torch.autograd.grad(delta, [head, *body], materialize_grads=True)
        made.append(torch.stack([delta.detach(), of_head.norm(), nn.utils.get_total_norm(of_body)]))
    return torch.stack(made).float().cpu()
