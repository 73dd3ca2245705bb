"""Planted secrets, and the search for them in files and output."""

import base64
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import quote, quote_plus

PLANTED = {
    "MLFLOW_TRACKING_TOKEN": "planted/mlflow+token=39ab",
    "ADVGRPO_KFP_TOKEN": "planted/kfp+token=71cd",
    "ADVGRPO_KFP_COOKIES": "authservice_session=planted/cookie+52",
    "ADVGRPO_WEBHOOK_SECRET": "planted/webhook+secret=88ef",
    "HF_TOKEN": "hf_plantedhubtoken64ab",
}
"""Environment variable -> secret."""


def forms(secret: str) -> set[bytes]:
    """Return a secret in plain text, in base64 and percent-encoded."""
    data = secret.encode()
    coded = {base64.b64encode(data), base64.urlsafe_b64encode(data)}
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {text.encode() for text in texts} | {one.rstrip(b"=") for one in coded}


def leaks(secrets: Iterable[str], *places: Path | str | bytes) -> list[str]:
    """Return the leaked secrets with their places, by their first characters.

    Args:
        secrets: Texts to search for.
        places: Folders, whose files and file names are searched; files; and texts.
    """
    wanted = {form: secret for secret in secrets for form in forms(secret)}
    found = []
    for place in places:
        for where, content in _contents(place):
            found += [f"{wanted[form][:10]} in {where}" for form in wanted if form in content]
    return found


def _contents(place: Path | str | bytes) -> Iterator[tuple[str, bytes]]:
    if isinstance(place, Path):
        files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
        for path in files:
            yield str(path), str(path).encode() + b"\0" + path.read_bytes()
    else:
        text = place if isinstance(place, bytes) else place.encode()
        yield f"the text {text[:40]!r}", text


@contextmanager
def captured_output() -> Iterator[list[str]]:
    """Capture standard output and error of this process and its children."""
    output: list[str] = []
    with (
        TemporaryFile() as file,
        os.fdopen(os.dup(file.fileno()), "w", buffering=1, encoding="utf-8") as stream,
        redirect_stdout(stream),
        redirect_stderr(stream),
    ):
        kept = [os.dup(1), os.dup(2)]
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield output
        finally:
            stream.flush()
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)
            file.seek(0)
            output.append(file.read().decode(errors="replace"))
