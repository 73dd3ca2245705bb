"""Where the compiled pipeline is: in a checkout, or in the installed package."""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
_PACKAGED = Path(__file__).parent / "adversarial_grpo.yaml"
CHECKED_IN = CHECKOUT / "pipelines" / "adversarial_grpo.yaml"
"""Where a checkout keeps it."""

PIPELINE = _PACKAGED if _PACKAGED.is_file() else CHECKED_IN
"""The compiled pipeline."""
