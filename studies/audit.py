"""Advisories for every pin of constraints.txt: `make audit`.

pip-audit queries them; this module separates a pin that has an advisory from one for
which there was no answer.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PINS = Path("constraints.txt")
_NAMED = 5
_REPAIR = (
    "repair: run it where PyPI itself answers; a mirror that only serves files has no advisories"
)

FOUND, UNKNOWN = 1, 2
"""Exit statuses: a pin has an advisory; nothing is known about some pins."""


def audit(pins: Path) -> tuple[list[str], int]:
    """Ask about every pin of a file.

    Returns:
        What is to be said, and the exit status.
    """
    command = ["--disable-pip", "--no-deps", "--progress-spinner=off", "--format=json"]
    ended = subprocess.run(
        [sys.executable, "-m", "pip_audit", *command, "--requirement", str(pins)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return judged(json.loads(ended.stdout), str(pins))
    except ValueError:
        said = ended.stderr.strip().splitlines() or [f"pip-audit ended with {ended.returncode}"]
        return [f"nothing is known about any pin of {pins}: {said[-1]}", _REPAIR], UNKNOWN


def judged(report: Mapping[str, Any], pins: str) -> tuple[list[str], int]:
    """Say what pip-audit's report comes to.

    Args:
        report: As pip-audit writes it with `--format json`.
        pins: The file that it asked about.

    Returns:
        What is to be said, and the exit status.
    """
    asked = report["dependencies"]
    flaws = [(one, flaw) for one in asked for flaw in one.get("vulns", [])]
    unknown = [one["name"] for one in asked if "skip_reason" in one]
    said = [
        f"{one['name']} {one['version']}: {flaw['id']}, {_mended(flaw['fix_versions'])}"
        for one, flaw in flaws
    ]
    if flaws:
        said.append(f"repair: raise what is named above in {pins}")
    if unknown:
        named = ", ".join(unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
        said.append(f"nothing is known about {len(unknown)} of {len(asked)} pins ({named})")
        said.append(_REPAIR)
    if not said:
        return [f"{len(asked)} pins of {pins}, none with a known advisory"], 0
    return said, FOUND if flaws else UNKNOWN


def _mended(versions: list[str]) -> str:
    return f"mended in {', '.join(versions)}" if versions else "not mended in any version"


def main() -> int:
    """Audit the pins of this folder.

    Returns:
        Exit status.
    """
    lines, status = audit(PINS)
    sys.stderr.writelines(f"make audit: {line}\n" for line in lines)
    return status


if __name__ == "__main__":
    sys.exit(main())
