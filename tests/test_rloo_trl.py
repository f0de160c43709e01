"""Our loss and gradient beside those of TRL's RLOOTrainer, on one fixed set of rollouts."""

from functools import partial
from pathlib import Path
from typing import Any

import peer
import pytest
import torch
import toy_policy as toy
from transformers import PreTrainedModel

from pipeline import models
from pipeline.objective import Objective
from pipeline.packing import Group
from pipeline.placed import Placed
from pipeline.policy import logprobs
from pipeline.watch import Clock

TOLERANCE = 1e-5
K, BETA, TEMPERATURE, CLIP, WORST = 4, 0.3, 0.7, 0.2, 1.5
SETTINGS = (
    *(f"rloo.k={K}", f"rloo.kl={BETA}", f"rloo.temperature={TEMPERATURE}", f"rloo.clip_ratio={CLIP}"),
    *("rloo.reward_transform=none", "rloo.missing_eos=0", f"rloo.clip_reward={WORST}"),
)
STALE = 0.004  # how far the policy has moved since it sampled, in the second case


def worth(text: str) -> float:
    return text.split().count("a") + 0.5 * text.split().count("b") - 1


def gradient(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def moved(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(STALE * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    return model


def ours(groups: list[Group], stale: bool) -> tuple[float, torch.Tensor]:
    more = ("rloo.passes=2",) if stale else ()
    x = toy.settings(*SETTINGS, *more)
    model = toy.lm()
    reference = Placed(toy.lm(seed=1), partial(logprobs, temperature=x.rloo.temperature))
    made = Objective(toy.learner(model, x), reference, x.rloo, 10**6, Clock())
    said = toy.tokenizer().batch_decode([r for g in groups for r in g.responses], skip_special_tokens=True)
    reward = torch.tensor([worth(text) for text in said]).clamp(-WORST, WORST)
    before = made.look(groups) if stale else None
    if stale:
        moved(model)
    seen = made.learn(groups, reward, made.parts()[0], before)
    return float(seen[:, 0].mean()), gradient(model)


def theirs(folder: Path, groups: list[Group], stale: bool) -> tuple[float, torch.Tensor]:
    """One batch through TRL's own preparation and loss, with our rollouts in the place of its sampling."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: make setup EXTRAS=dev,peers")
    from datasets import Dataset

    class Trainer(trl.RLOOTrainer):
        def _generate(self, prompts: list[str]) -> Any:
            ids = [g.prompt for g in groups for _ in g.responses]
            said = [r for g in groups for r in g.responses]
            return ids, said, self.processing_class.batch_decode(said, skip_special_tokens=True)

    settings = trl.RLOOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(groups) * K,  # rloo.prompts · rloo.k: our micro_tokens holds a step
        gradient_accumulation_steps=1,
        num_generations=K,  # rloo.k
        beta=BETA,  # rloo.kl; its estimator is our k1
        temperature=TEMPERATURE,  # rloo.temperature
        epsilon=CLIP,  # rloo.clip_ratio, below and above
        num_iterations=1,  # rloo.passes
        steps_per_generation=1,  # rloo.minibatches
        normalize_advantages=False,  # ours are not
        reward_clip_range=(-WORST, WORST),  # rloo.clip_reward
        mask_truncated_completions=False,  # ours learns from them too
        max_completion_length=8,
        disable_dropout=True,  # ours refuses a model that has any
        shuffle_dataset=False,
        **peer.QUIET,
    )
    models.save(toy.lm("padded", seed=1), toy.tokenizer(), folder / "reference")
    model = toy.lm("padded")
    model.config._name_or_path = str(folder / "reference")  # where it loads the reference from
    data = Dataset.from_dict({"prompt": [p.text for p in toy.PROMPTS]})
    trainer = Trainer(
        model,
        lambda completions, **_: [worth(text) for text in completions],
        settings,
        train_dataset=data,
        processing_class=toy.tokenizer(),
    )
    rows = [{"prompt": p.text} for p in toy.PROMPTS for _ in range(K)]
    batch = trainer._generate_and_score_completions(rows)
    if stale:
        moved(model)
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return float(loss.detach()), gradient(model)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # TRL asks for it
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
def test_loss_and_gradient_are_those_of_trl(tmp_path: Path, stale: bool) -> None:
    groups = toy.rollouts()
    loss, slope = ours(groups, stale)
    expected, wanted = theirs(tmp_path, groups, stale)
    assert loss == pytest.approx(expected, rel=TOLERANCE, abs=1e-6)
    assert float((slope - wanted).norm()) <= TOLERANCE * float(wanted.norm()) and float(wanted.norm()) > 0.1
