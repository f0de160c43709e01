"""Every random draw of the project starts here: one integer seed, and tags that name what it is for."""

import hashlib


def derive(seed: int, *tags: str | int) -> int:
    """A 63-bit seed for one purpose. Streams of different tags are independent; adding one never shifts another."""
    text = "/".join(map(str, (seed, *tags)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
