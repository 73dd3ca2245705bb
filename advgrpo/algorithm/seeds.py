"""Seeds of random draws, without torch."""

import hashlib


def seed_for(*parts: int | str) -> int:
    """Derive a seed from the purpose of a draw.

    Args:
        parts: For instance the run's seed, the update, a prompt id and a sample index. `1` and
            `"1"` give different seeds, and so do `("ab", "c")` and `("a", "bc")`.

    Returns:
        A number in [0, 2**63), the same in every process and version of Python.
    """
    # Python's own hash of a text differs between processes.
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    # 63 bits, to fit a signed 64-bit integer.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
