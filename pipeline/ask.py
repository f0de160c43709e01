"""One prompt put to all that is there: what it means, what an answer to it is worth and why, what the policies of a
table answer, and what its reward models make of each answer.

The gold reward needs no artefact. Models are found through the table's plan; those that are not made yet are named.
Answers are sampled with the settings of the stage `generate`, by a seed that depends on the prompt alone.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import store
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment
from pipeline.plan import Graph
from pipeline.seeds import derive
from pipeline.world.draw import Draw
from pipeline.world.families import SHARES, draw_task, read_task, tasks
from pipeline.world.families.task import SIDES, Task
from pipeline.world.reasons import equation, reasons
from pipeline.world.style import undress

YOURS, RIGHT = "yours", "a right one"


class Answer(NamedTuple):
    by: str
    text: str
    ended: bool = True


@dataclass(frozen=True)
class Models:
    """Policies and reward models by name, loaded when they are first asked."""

    policies: Mapping[str, Path]
    rewards: Mapping[str, Path]
    missing: Sequence[str]
    settings: Experiment

    @cached_property
    def loaded_policies(self) -> dict[str, tuple[Any, Any]]:
        from pipeline import models

        return {name: models.load_lm(folder) for name, folder in self.policies.items()}

    @cached_property
    def loaded_rewards(self) -> dict[str, tuple[Any, Any]]:
        from pipeline import contract

        return {name: contract.load(folder) for name, folder in self.rewards.items()}

    def answers(self, prompt: str) -> list[Answer]:
        """Of each policy; without any, torch is not imported."""
        if not self.policies:
            return []
        return [Answer(name, *sampled(*loaded, prompt, self.settings)) for name, loaded in self.loaded_policies.items()]

    def scores(self, prompt: str, answers: Sequence[Answer]) -> dict[str, list[float]]:
        """{reward model: a reward for each answer}."""
        if not self.rewards:
            return {}
        from pipeline import scoring

        texts, tokens = [a.text for a in answers], self.settings.run.micro_tokens
        return {
            name: scoring.score(*loaded, [prompt] * len(texts), texts, tokens)[0].tolist()
            for name, loaded in self.loaded_rewards.items()
        }


def made(graph: Graph, settings: Experiment) -> Models:
    """The models of a table's graph that are in the store."""
    names = Counter(node.name for node in graph.values())
    found: dict[str, dict[str, Path]] = {"sft": {}, "rloo": {}, "rm": {}}
    missing = []
    for node in graph.values():
        if node.stage.name in found:
            name = node.name if names[node.name] == 1 else f"{node.name}-{node.key[:6]}"
            if store.is_whole(node.folder):
                found[node.stage.name][name] = node.folder / "out"
            else:
                missing.append(name)
    return Models(found["sft"] | found["rloo"], found["rm"], missing, settings)


def sampled(model: Any, tokenizer: Any, prompt: str, x: Experiment) -> tuple[str, bool]:
    """An answer, and whether it ended by itself."""
    from pipeline import chat
    from pipeline.sample import Sampling, sample, stops

    asked = x.generate
    how = Sampling(asked.max_new, asked.temperature, asked.top_p, asked.top_k, stops(model, tokenizer))
    (ids,) = sample(model.eval(), chat.prompts(tokenizer, [prompt]), how, [derive(x.seed, "ask", prompt)])
    return tokenizer.decode(ids, skip_special_tokens=True), ids[-1] in how.stops


# --- what is said about it ---


def talk(models: Models) -> None:
    """Until an empty prompt; an empty response leaves the answers to the models."""
    try:
        while prompt := input("prompt> ").strip():
            try:
                known(prompt)
                print("\n".join(lines(prompt, input("response> ").strip() or None, models)), end="\n\n")
            except ConfigError as e:
                print(e)
    except (EOFError, KeyboardInterrupt):
        print()


def lines(prompt: str, response: str | None, models: Models) -> Iterator[str]:
    """All that is known of a prompt and, if there is one, of a response to it."""
    task = known(prompt)
    right = task.right(Draw(derive(0, "ask", prompt)))
    yield f"prompt       {prompt}"
    yield f"understood   {understood(task)}"
    yield from () if response is None else ("", *explained(prompt, response))
    answers = [] if response is None else [Answer(YOURS, response)]
    answers += [Answer(RIGHT, right), *models.answers(prompt)]
    yield from ("", *compared(prompt, answers, models.scores(prompt, answers)))
    if models.missing:
        yield from ("", f"not made yet: {', '.join(models.missing)}")


def known(prompt: str) -> Task:
    """The task; of another world's prompt, what could be asked instead."""
    try:
        return read_task(prompt)
    except ValueError as e:
        near = difflib.get_close_matches(prompt, (t.prompt for t in every_task()), n=1, cutoff=0.7)
        hint = f"did you mean {near[0]!r}? " if near else ""
        examples = "".join(f"\n  {family:6} {prompt}" for family, prompt in example_prompts().items())
        raise ConfigError(
            "prompt", prompt, f"not a prompt of this world. {hint}It knows, for example:{examples}"
        ) from e


def every_task() -> Iterator[Task]:
    return (task for family in SHARES for side in SIDES for kind in tasks(family, side) for task in kind)


def example_prompts() -> dict[str, str]:
    draw = Draw(0)
    return {family: draw_task(draw, "train", family).prompt for family in SHARES}


def understood(task: Task) -> str:
    """Family, kind and side, and the slots as the family's reader has filled them."""
    slots = {field.name: getattr(task, field.name) for field in fields(task)}  # type: ignore[arg-type]  # every kind is one
    shown = "; ".join(f"{name} {filled(value)}" for name, value in slots.items() if value not in (None, ""))
    side = "held out" if task.side == "valid" else "train side"
    return f"{task.family}, {type(task).__name__.lower()}, {side}: {shown}"


def filled(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def explained(prompt: str, response: str) -> Iterator[str]:
    """The terms of the gold reward, one a line."""
    found = reasons(prompt, response)
    yield f"response     {one_line(response)}"
    yield f"undressed    {one_line(undress(response).body)}"
    yield from (f"  {r.term:10} {r.value:+6.2f}   {r.why}" for r in found)
    yield f"  {'gold':10} {sum(r.value for r in found):+6.2f}"


def compared(prompt: str, answers: Sequence[Answer], scores: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """A table: who says what, what it is worth, what each reward model makes of it."""
    rows = [["", "gold", *scores, "answer"]]
    for i, answer in enumerate(answers):
        found = reasons(prompt, answer.text, answer.ended)
        numbers = sum(r.value for r in found), *(score[i] for score in scores.values())
        shown = f"{one_line(answer.text)}   ({equation(found)})"
        rows.append([answer.by, *(f"{number:.2f}" for number in numbers), shown])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, shown in rows:
        cells = (cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True))
        yield "  ".join((name.ljust(widths[0]), *cells, f" {shown}"))


def one_line(text: str) -> str:
    return text.replace("\n", " ⏎ ")
