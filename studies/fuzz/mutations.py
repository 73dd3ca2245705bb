"""Mutations that keep checksums and structure valid, so that inputs get past the first check."""

import json
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Plain = Callable[[bytes], bytes]
"""A function that mutates bytes at random."""

Mutate = Callable[[bytes, Random, Plain], bytes]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**63, 10**400, 1e308, float("inf"), float("nan")),
    *("", " ", "\0", "\ud800", "\u0661", "nan", "1", "..", "../x", "/", "a/../..", "s3://", "=1+1"),
    *("x" * 300, "2026-01-01", "2026-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"),
    *([], [[]], [0], [None], {}, {"": None}, {"type": "other"}, [{}], {"a": {"a": {}}}),
)
"""Unusual JSON values."""

_PNG_START = 8
_BLOCK = 512
_TAR_SUM = slice(148, 156)


def mutate_bytes(data: bytes, rng: Random, plain: Plain) -> bytes:  # noqa: ARG001 - has the type `Mutate`
    """Mutate bytes."""
    return plain(data)


def json_tree(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Mutate values of a JSON document, or now and then its bytes."""
    try:
        tree = json.loads(data) if rng.random() < 0.8 else None
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict | list):
        return plain(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _mutate_value(tree, rng)
    return json.dumps(tree).encode()


def json_lines(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Mutate one line of JSON, or duplicate one."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    match rng.randrange(8):
        case 0:
            return plain(data)
        case 1:
            lines.insert(place, rng.choice(lines))
        case _:
            lines[place] = json_tree(lines[place], rng, plain)
    return b"\n".join(lines)


def png(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Mutate bytes, and mostly fix the checksums of a PNG's chunks."""
    changed = plain(data)
    return fix_png_checksums(changed) if rng.random() < 0.8 else changed


def tar(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Mutate bytes, and mostly fix the checksums of a tar archive's headers."""
    changed = plain(data)
    return fix_tar_checksums(changed) if rng.random() < 0.8 else changed


def safetensors(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Mutate the header of a safetensors file, which is JSON after its length, or any bytes."""
    if rng.random() < 0.3:
        return plain(data)
    end = 8 + int.from_bytes(data[:8], "little")
    head = json_tree(data[8:end], rng, plain)
    return len(head).to_bytes(8, "little") + head + data[end:]


def fix_png_checksums(data: bytes) -> bytes:
    """Fix the checksums of a PNG's chunks."""
    fixed, place = bytearray(data), _PNG_START
    while place + 12 <= len(fixed):
        end = place + 8 + int.from_bytes(fixed[place : place + 4])
        fixed[end : end + 4] = zlib.crc32(fixed[place + 4 : end]).to_bytes(4)
        place = end + 4
    return bytes(fixed[: len(data)])


def fix_tar_checksums(data: bytes) -> bytes:
    """Fix the checksums of a tar archive's headers."""
    fixed = bytearray(data)
    for place in range(0, len(fixed) - _BLOCK + 1, _BLOCK):
        block = fixed[place : place + _BLOCK]
        if b"ustar" in block:
            block[_TAR_SUM] = b" " * 8
            block[_TAR_SUM] = f"{sum(block):06o}\0 ".encode()
            fixed[place : place + _BLOCK] = block
    return bytes(fixed)


def _mutate_value(tree: Any, rng: Random) -> Any:  # noqa: ANN401 - a tree of JSON values
    """Mutate one value of a tree."""
    places = list(_iterate_values(tree)) if isinstance(tree, dict | list) else []
    if not places:
        return deepcopy(rng.choice(ODD))
    here, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del here[key]
        case 1:
            here[key] = [here[key]]
        case 2:
            there, other = rng.choice(places)
            # A copy, because a tree that contains itself cannot be serialized.
            here[key] = deepcopy(there[other])
        case 3 if isinstance(here, dict):
            here[str(rng.choice(ODD))] = here.pop(key)
        case _:
            here[key] = deepcopy(rng.choice(ODD))
    return tree


def _iterate_values(tree: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - a tree of JSON values
    """Yield the container and key of every value of a tree."""
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        for key in keys:
            yield here, key
            if isinstance(here[key], dict | list):
                waiting.append(here[key])
