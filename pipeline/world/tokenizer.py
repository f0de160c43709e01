"""The world's own tokenizer: byte-level BPE trained on its texts, and the chat template.

All 256 bytes are in the vocabulary, so any text round-trips. A digit is always a token of its own, together with the
space before it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.world.draw import Draw
from pipeline.world.families import draw_task
from pipeline.world.families.task import SIDES
from pipeline.world.models import response_models
from pipeline.world.sft import RIGHT_REPLY, WRONG_REPLY

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("<pad>", "<bos>", "<bot>", "<eos>")
TEXTS = 12_000
SPLIT = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"

# <eos> hands the turn to the user, <bot> to the assistant; what the assistant says, its <eos> included, is marked.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<bot>' }}{% generation %}{{ message['content'] + '<eos>' }}{% endgeneration %}"
    "{% else %}"
    "{{ ('<bos>' if loop.first else '') + message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bot>' }}{% endif %}"
)


def train(vocab: int = 1024) -> "Tokenizer":
    """The same tokenizer every time; it adds no token that the chat template does not write."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterator[str]:
    """Prompts and answers of both sides: the words are common knowledge."""
    draw = Draw(seed=11)
    models = [model for side in SIDES for model in response_models(side)]
    for _ in range(TEXTS):
        task = draw_task(draw, draw.pick(SIDES))
        yield task.prompt
        yield draw.pick(models).respond(task, draw) + draw.pick((RIGHT_REPLY, WRONG_REPLY))
