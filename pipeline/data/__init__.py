"""Rows that somebody else made, as the rows that stages read: each checked against its data set's schema.

    files    which files of a repository a split is
    reading  rows of a file, one after another
    rules    what a cell must be
    schemas  the columns of each data set, and the row that becomes of one
    load     the pass over all rows, and the card that says what came of it

No torch. This file is read by whoever plans, and loads nothing.
"""

SFT, PROMPTS, PAIRS = ("sft",), ("prompts",), ("preferences", "in_domain", "scenarios")
# What can be made of each schema's rows.
SCHEMAS: dict[str, tuple[str, ...]] = {
    "ultrachat": (*SFT, *PROMPTS),
    "tulu": SFT,
    "ultrafeedback": ("responses", *PROMPTS),
    "pairs": PAIRS,
    "ranked": ("scenarios", *PROMPTS),
    "unified_feedback": PAIRS,
    "reward_bench": ("reward_bench",),
    "reward_bench_2": ("reward_bench_2",),
    "pref_test_sets": ("prior_sets",),
    "rm_bench": ("rm_bench",),
    "alpaca_eval": ("alpaca_eval", *PROMPTS),
    "own": PAIRS,
    "messages": SFT,
    "prompts": PROMPTS,
}
