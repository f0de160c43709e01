"""Reward-model research, end to end: SFT, reward models, benchmarks, RLOO policies, AlpacaEval. README.md is the
way in."""
