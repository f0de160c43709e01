"""How TRL's trainers run in a test: on CPU, in fp32, silent, leaving nothing behind."""

from typing import Any

QUIET: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": None,  # none; False warns
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
