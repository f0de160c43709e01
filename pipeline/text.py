"""GRM's text regularisation (arXiv 2406.10216): a reward model's body goes on saying the chosen responses.

The loss becomes loss + coef · mean −log π, over all tokens of a step's chosen responses, by the SFT model's LM head on
the same hidden states: one pass of the body. That head is trained with the rest [second-hand]; beside LoRA's adapters
it is frozen, as in SFT. It is a part of the model while that is trained, for gradients, clipping, checkpoints and
shards, and gone when the model is saved: the folder is that of any reward model.

GRM's own term [code, in copies of its trainer] is −log σ(β Σ log π), β = 0.1, the sum over a response's tokens, and is
mixed with the reward loss 0.01 to 0.99; an option makes it −Σ log π. For a response of some length the former is β
times the latter to float precision. Our mean over tokens does not grow with the length; beside theirs its coef is 0.001
times a response's tokens [ours]. Left out: GRM's variants like DPO, which compare with a reference model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline import dist, models, policy
from pipeline.attention import hidden
from pipeline.errors import check
from pipeline.experiment import Text
from pipeline.losses import PairScores
from pipeline.packing import Group, Layout


def keep_lm_head(model: PreTrainedModel, sft: Path) -> None:
    """Puts the LM head of the model that this one was made from beside the score head."""
    made: Any = AutoModelForCausalLM
    lm, info = made.from_pretrained(sft, dtype=torch.float32, output_loading_info=True)
    absent = ", ".join(sorted(info["missing_keys"]))
    check(not absent, "rm.text", str(sft), f"needs a language model, and this folder has no {absent}; set it to null")
    model.lm_head = lm.get_output_embeddings()  # where transformers looks for it
    if lm.config.get_text_config().tie_word_embeddings:
        model.lm_head.weight = model.get_input_embeddings().weight


def drop_lm_head(model: PreTrainedModel) -> None:
    del model.lm_head


def rewards(model: PreTrainedModel, at: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """As `models.rewards`, and (n / 2,) −log π of each pair's chosen response."""
    with dist.autocast():
        h = hidden(model, at)
    chosen = at.owner % 2 == 0
    logp, _ = policy.of_hidden(model, h[at.before[chosen]], at.target[chosen])
    nll = logp.new_zeros(len(at.last) // 2).index_add(0, at.owner[chosen] // 2, -logp)
    return *models.read(model, h[at.last]), nll


def added(
    loss: Tensor, s: PairScores, groups: Sequence[Group], settings: Text | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a whole step with the term, and what to record of that. Groups end their prompts where responses
    begin. None: the loss as it is."""
    if settings is None:
        return loss, {}
    assert s.nll is not None, "the step was read by `rewards`"
    mean = s.nll.sum() / sum(len(g.responses[0]) for g in groups)
    return loss + settings.coef * mean, {"text": mean.detach()}
