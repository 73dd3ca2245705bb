"""Changes that keep a format's frame whole, so that what lies behind it is reached too."""

import json
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Plain = Callable[[bytes], bytes]
"""Changes bytes at random."""

Mutate = Callable[[bytes, Random, Plain], bytes]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**63, 10**400, 1e308, float("inf"), float("nan")),
    *("", " ", "\0", "\ud800", "\u0661", "nan", "1", "..", "../x", "/", "a/../..", "s3://", "=1+1"),
    *("x" * 300, "2026-01-01", "2026-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"),
    *([], [[]], [0], [None], {}, {"": None}, {"type": "other"}, [{}], {"a": {"a": {}}}),
)
"""Values that nobody meant."""

_PNG_START = 8
_BLOCK = 512
_TAR_SUM = slice(148, 156)


def plainly(data: bytes, rng: Random, plain: Plain) -> bytes:  # noqa: ARG001 - of the kind `Mutate`
    """Change bytes."""
    return plain(data)


def json_tree(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Change places of a JSON document, or, now and then, its bytes."""
    try:
        tree = json.loads(data) if rng.random() < 0.8 else None
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict | list):
        return plain(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _changed(tree, rng)
    return json.dumps(tree).encode()


def json_lines(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Do so in one line, or change lines."""
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
    """Change bytes, and, mostly, put the sums of a PNG's parts right again."""
    changed = plain(data)
    return with_png_sums(changed) if rng.random() < 0.8 else changed


def tar(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Change bytes, and, mostly, put the sums of an archive's heads right again."""
    changed = plain(data)
    return with_tar_sums(changed) if rng.random() < 0.8 else changed


def safetensors(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Change the head of a file, which is JSON after its length, or any bytes."""
    if rng.random() < 0.3:
        return plain(data)
    end = 8 + int.from_bytes(data[:8], "little")
    head = json_tree(data[8:end], rng, plain)
    return len(head).to_bytes(8, "little") + head + data[end:]


def with_png_sums(data: bytes) -> bytes:
    """Put the sums of a PNG's parts right."""
    mended, place = bytearray(data), _PNG_START
    while place + 12 <= len(mended):
        end = place + 8 + int.from_bytes(mended[place : place + 4])
        mended[end : end + 4] = zlib.crc32(mended[place + 4 : end]).to_bytes(4)
        place = end + 4
    return bytes(mended[: len(data)])


def with_tar_sums(data: bytes) -> bytes:
    """Put the sums of an archive's heads right."""
    mended = bytearray(data)
    for place in range(0, len(mended) - _BLOCK + 1, _BLOCK):
        block = mended[place : place + _BLOCK]
        if b"ustar" in block:
            block[_TAR_SUM] = b" " * 8
            block[_TAR_SUM] = f"{sum(block):06o}\0 ".encode()
            mended[place : place + _BLOCK] = block
    return bytes(mended)


def _changed(tree: Any, rng: Random) -> Any:  # noqa: ANN401 - a tree of JSON values
    """Put something else in one place of a tree."""
    places = list(_places(tree)) if isinstance(tree, dict | list) else []
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
            # A copy, so that no tree comes to hold itself.
            here[key] = deepcopy(there[other])
        case 3 if isinstance(here, dict):
            here[str(rng.choice(ODD))] = here.pop(key)
        case _:
            here[key] = deepcopy(rng.choice(ODD))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - likewise
    """Go through all places of a tree: what holds a value, and by which key."""
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        for key in keys:
            yield here, key
            if isinstance(here[key], dict | list):
                waiting.append(here[key])
