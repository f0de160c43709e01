"""ArmoRM (Wang et al. 2024, arXiv 2406.12845), BSR's gold reward: a Llama body, 19 rewards of the last token, and a
gate that weighs them by what the prompt's end says. Written here because the code beside its weights imports what
transformers 5 no longer has; so none of that is run.

    reward = softmax(gate(h_prompt) / temperature) · logit_scale · (W h_last) M

h_prompt is read at the end-of-turn before the assistant's header, the last one in a conversation. Names of the weights
are those of the published checkpoint, as a public copy of its code has them [code].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaModel, LlamaPreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import check

ARCHITECTURE = "LlamaForRewardModelWithGating"
CUE = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@dataclass
class Output:
    logits: Tensor  # (n,)


class Gate(nn.Module):
    def __init__(self, width: int, out: int, hidden: int, layers: int, temperature: float):
        super().__init__()
        sizes = [width, *[hidden] * layers]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, [*sizes[1:], out], strict=True)])
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.layers)[:-1]:
            x = F.relu(layer(x))
        return F.softmax(self.layers[-1](x) / self.temperature, dim=-1) * self.logit_scale


class ArmoRM(LlamaPreTrainedModel):
    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        own: dict[str, Any] = config.to_dict()
        objectives = own.get("num_objectives", 19)
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(objectives), requires_grad=False)
        self.gating = Gate(
            config.hidden_size,
            objectives,
            own.get("gating_hidden_dim", 1024),
            own.get("gating_n_hidden", 3),
            own.get("gating_temperature", 10),
        )
        self.cue: list[int] = []
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Output:
        """Of conversations without padding."""
        h = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        gates = torch.tensor([last(ids, self.cue) for ids in input_ids.tolist()], device=h.device)
        with torch.autocast(h.device.type, enabled=False):
            rewards = self.regression_layer(h[:, -1]) @ self.reward_transform_matrix  # (n, objectives)
            weights = self.gating(h[torch.arange(len(h), device=h.device), gates])
        return Output((weights * rewards).sum(-1))


def last(ids: list[int], cue: list[int]) -> int:
    """Where the cue stands for the last time."""
    for at in range(len(ids) - len(cue), -1, -1):
        if ids[at : at + len(cue)] == cue:
            return at
    raise ValueError("a conversation without the assistant's header: ArmoRM's own tokenizer writes one")


def is_one(config: dict[str, Any]) -> bool:
    return config.get("architectures") == [ARCHITECTURE]


def load(folder: Path) -> tuple[ArmoRM, PreTrainedTokenizerBase]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    config = LlamaConfig.from_pretrained(folder)
    made: Any = ArmoRM
    model, info = made.from_pretrained(
        folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    check(not wrong, "id", str(folder), f"its weights are not ArmoRM's: {', '.join(wrong[:5])}")
    model.cue = tokenizer(CUE, add_special_tokens=False)["input_ids"]
    return model.eval(), tokenizer
