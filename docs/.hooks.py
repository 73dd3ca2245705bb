"""Hooks of `make site`: links to files of the repository that are not pages become plain text."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Keep only the text of a link that leaves docs/."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
