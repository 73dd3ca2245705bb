"""Published prompt sets that `advgrpo init --prompt-set` downloads."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from advgrpo.errors import StorageUnavailableError
from advgrpo.storage.cache import cache_folder
from advgrpo.storage.files import write_bytes

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class PromptSource:
    """A table of prompts at a fixed version."""

    url: str
    sha256: str
    column: str
    licence: str


PROMPT_SETS = {
    "parti": PromptSource(
        "https://raw.githubusercontent.com/google-research/parti/"
        "2c99f6652cbc7f0d0441aa91f4c7e7055bcb0071/PartiPrompts.tsv",
        "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
        "Prompt",
        "Apache-2.0",
    )
}
"""Sets whose licence is stated with the file; name -> source."""


def download_prompt_set(name: str) -> Path:
    """Download a prompt set, or return it from the cache.

    Args:
        name: Key of `PROMPT_SETS`.

    Returns:
        The table.

    Raises:
        StorageUnavailableError: If it cannot be downloaded, or is another version.
    """
    source = PROMPT_SETS[name]
    path = cache_folder() / "files" / source.sha256 / source.url.rpartition("/")[2]
    if path.is_file():
        return path
    repair = f"check the network, or download {source.url} yourself and use --prompts FILE"
    try:
        # A constant address, never one from settings.
        with urlopen(source.url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            data: bytes = answer.read()
    except OSError as error:
        raise StorageUnavailableError(
            f"cannot download the prompts {name}: {error}", repair=repair
        ) from error
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise StorageUnavailableError(
            f"{source.url} is not the expected version of {name}", repair=repair
        )
    write_bytes(str(path), data)
    return path
