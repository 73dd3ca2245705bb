"""The flow model being trained."""

from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.sd3 import Sd3Policy, load_policy

__all__ = ["Policy", "Sd3Policy", "load_policy"]
