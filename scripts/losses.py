"""Writes docs/losses.md: docstrings of pipeline/losses.py, constants of conf/loss/ with their comments."""

import inspect
import sys
from pathlib import Path

from pipeline import losses
from pipeline.losses import PENALTIES, TERMS, WEIGHTS

PROJECT = Path(__file__).resolve().parent.parent

PAGE = """# Losses

<!-- Made by `make docs` from the docstrings of pipeline/losses.py and from conf/loss/: change those. -->

The loss of one optimizer step with n pairs is

> L = 1/n Σᵢ wᵢ ℓᵢ + penalties

where a **term** ℓ looks at one pair, a **weight** w multiplies it and carries no gradient, and a **penalty** looks at
the rewards of the whole step and is never weighted. Chosen and rejected have rewards r_w, r_l and representations
h_w, h_l, the exact input of the linear score head; Δ = r_w − r_l, and σ is the logistic function. A loss sees the
scores of the whole step at once, whatever micro-batches or processes they came from, and computes in fp32 at least.

{overview}

Weights and penalties stand on another loss, `of`, which is `bt` unless you say otherwise:

```
make rm ARGS='loss=hinge loss.margin=2'
make rm ARGS='loss=norm_bt loss.of=margin'              a weighted term
make rm ARGS='loss=bsr loss.of=norm_bt'                 NormBT with BSR beside it
make rm ARGS='-m loss=norm_bt loss.mu=ema,batch,one'    with and without its moving average
make rm ARGS='loss=norm_bt "loss.of={{name: hinge, margin: 2}}"'
```

`dialect=reference` takes the constants of conf/dialect/loss/ instead: what the published code of BSR does. Forms are
the same but for two: it takes the logarithm of σ in DR, which is −∞ in fp32 below r = −103, and its centring lacks the
square, so that it cannot run. Its constant margin, which no recipe sets, is not here.

Marks: [paper] its text, [code] its authors' code, [second-hand] who quotes it, [third party] who built it again,
[inferred], [ours]. BSR is [arXiv 2505.07271](https://arxiv.org/abs/2505.07271), NormBT [arXiv 2512.06343](https://arxiv.org/abs/2512.06343).

{sections}

## Other rewards

A loss sees rewards and representations, not where they come from.

**Implicit rewards** (`rm=implicit`, [pipeline/implicit.py](../pipeline/implicit.py)):
r(x, y) = β (log π(y|x) − log π_ref(y|x)), of the SFT model in training beside itself as it was, summed over the
response's tokens with its end of turn, in fp32. With `loss=bt` this is DPO ([arXiv 2305.18290](https://arxiv.org/abs/2305.18290),
eq. 7; checked against TRL's); every other loss applies unchanged. At the first step all rewards are 0. h is then the
final representation of the response's last token. No head reads it: NormBT's weights lose their derivation, and ‖W_p‖
and head gradients are left out of what is recorded, but norms and distances can be compared with those of a score
head. The learning rate is that of the other reward models [ours]; β is 0.1 [ours], which DPO's authors use most. The
folder holds both models; transformers alone finds the policy in it.

```
make rm ARGS='rm=implicit'                              DPO
make rm ARGS='rm=implicit rm.implicit.beta=0.3 loss=bsr'
```

**An encoder** (`model=tiny-bert sft.steps=0`, [conf/model/tiny-bert.yaml](../conf/model/tiny-bert.yaml)): BERT's own
sequence classifier, whose bias stays 0. Each token sees the whole text; h is what the pooler makes of the first one.
Texts are padded rows with a mask: streams that share prompts are for decoders. An encoder is no language model, so
there is no SFT: it starts from random weights, and its scores say nothing about pretrained encoders. What needs a
policy's answers (RLOO, AlpacaEval, best of N) is refused before anything runs.

```
make rm ARGS='model=tiny-bert sft.steps=0 rm.epochs=4 loss=norm_bt'
```

## Beside a loss

`rm.text.coef` adds GRM's text regularisation to any of them: coef times the mean −log π over the tokens of the step's
chosen responses, by the SFT model's LM head on the same hidden states. Its gradient for a token's logits z is coef
(softmax z − one-hot) / (tokens of the step). It is recorded as `text`, and `loss` stays the loss of the pairs. The LM
head is gone from the reward model's folder. What GRM does otherwise: [pipeline/text.py](../pipeline/text.py).

```
make rm ARGS='rm.text={{coef:0.1}}'
```

## A new one

A function of `PairScores` with its name in `TERMS` or `PENALTIES` ([pipeline/losses.py](../pipeline/losses.py)), its
constants in `conf/loss/<name>.yaml`, a NumPy oracle and a closed-form gradient in
[tests/test_losses.py](../tests/test_losses.py). A constant that is not simply a number gets a rule in
[pipeline/constants.py](../pipeline/constants.py). `make docs` writes it into this page.
"""

KINDS = {"Terms": TERMS, "Weights": WEIGHTS, "Penalties": PENALTIES}


def page() -> str:
    sections = (f"## {title}\n\n" + "\n\n".join(map(section, parts)) for title, parts in KINDS.items())
    return PAGE.format(overview=overview(), sections="\n\n".join(sections))


def overview() -> str:
    rows = ["| | |", "|---|---|"]
    for title, parts in KINDS.items():
        rows += [f"| **{title}** | |", *(f"| [`{name}`](#{name}) | {paragraphs(name)[0]} |" for name in parts)]
    return "\n".join(rows)


def section(name: str) -> str:
    """Formula, gradient, source, constants."""
    formula, *rest = paragraphs(name)
    return "\n\n".join((f"### `{name}`", f"> {formula}", *rest, constants(name)))


def paragraphs(name: str) -> list[str]:
    """The docstring's: what it computes, its gradient, where it comes from."""
    return inspect.cleandoc(losses.LOSSES[name].__doc__ or "").split("\n\n")


def constants(name: str) -> str:
    paths = [
        path
        for path in (f"conf/loss/{name}.yaml", f"conf/dialect/loss/reference_{name}.yaml")
        if (PROJECT / path).exists()
    ]
    texts = [(PROJECT / path).read_text() for path in paths]
    if len(texts[0].splitlines()) == 1:
        return "No constants."
    return "\n\n".join(f"```yaml\n# {path}\n{text}```" for path, text in zip(paths, texts, strict=True))


def main() -> int:
    (PROJECT / "docs" / "losses.md").write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
