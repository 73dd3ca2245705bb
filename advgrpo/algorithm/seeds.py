"""Seeds of random draws; needs no torch."""

import hashlib


def seed_for(*parts: int | str) -> int:
    """Derive a seed from what a draw is for.

    Args:
        parts: For instance the run's seed, the update, a prompt id and a sample index. Numbers and
            texts are told apart, and so are `("ab", "c")` and `("a", "bc")`.

    Returns:
        A number in [0, 2**63), the same in every process and version.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
