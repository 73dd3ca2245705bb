"""The flow model being trained."""

from advgrpo.policy.base import Policy
from advgrpo.policy.sd3 import Sd3Policy, load_policy

__all__ = ["Policy", "Sd3Policy", "load_policy"]
