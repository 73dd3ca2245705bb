"""A parser of Dockerfiles for tests."""

import re
from dataclasses import dataclass

_FIXED_TAG = re.compile(r"[^:@]+(:\d+)?(/[^:@]+)*:[^:@]*\d+\.\d+\.\d+[^:@]*")
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Instruction:
    """An instruction of a Dockerfile, continued lines joined."""

    name: str
    text: str


def instructions(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [Instruction(line.split()[0], line.partition(" ")[2].strip()) for line in joined]


def stages(found: list[Instruction]) -> list[list[Instruction]]:
    """Split a Dockerfile into stages, each of which starts with FROM."""
    starts = [n for n, one in enumerate(found) if one.name == "FROM"]
    return [found[a:b] for a, b in zip(starts, [*starts[1:], len(found)], strict=True)]


def texts(stage: list[Instruction], name: str) -> list[str]:
    """Return the arguments of each instruction of a name."""
    return [one.text for one in stage if one.name == name]


def context_copies(stage: list[Instruction]) -> list[str]:
    """Return the paths of the build context that a stage copies."""
    copies = [text.split() for text in texts(stage, "COPY")]
    return [path for words in copies if not words[0].startswith("--from=") for path in words[:-1]]


def base_images(found: list[Instruction]) -> list[str]:
    """Return the base images of a Dockerfile, with arguments replaced by their defaults."""
    first = [one.name for one in found].index("FROM")
    defaults = dict(text.partition("=")[::2] for text in texts(found[:first], "ARG"))
    own: set[str] = set()
    images: list[str] = []
    for text in texts(found, "FROM"):
        image, *named = text.split()
        image = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], image)
        if image not in own:
            images.append(image)
        own |= set(named[1:])
    return images


def may_move(image: str) -> bool:
    """Return whether a name may move: it has neither a digest nor a full version."""
    return not (_DIGEST.fullmatch(image) or _FIXED_TAG.fullmatch(image))


def debian_packages(stage: list[Instruction]) -> set[str]:
    """Return the Debian packages that a stage installs."""
    commands = [c.split() for text in texts(stage, "RUN") for c in re.split(r"&&|\|\||;", text)]
    return {
        word
        for words in commands
        if words and words[0] in {"apt", "apt-get"} and "install" in words
        for word in words[words.index("install") + 1 :]
        if not word.startswith("-")
    }
