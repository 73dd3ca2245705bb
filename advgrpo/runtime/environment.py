"""Environment variables of this process."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


def quiet_libraries() -> None:
    """Silence progress bars and hints of libraries, unless the user has set their variables."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables while the block runs, then restore the whole environment."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
