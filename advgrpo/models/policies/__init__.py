"""The flow model being trained: its interface, its families and its adapter."""

from advgrpo.models.policies.base import FlowModel, Policy, PromptEmbeddings
from advgrpo.models.policies.loading import load_policy

__all__ = ["FlowModel", "Policy", "PromptEmbeddings", "load_policy"]
