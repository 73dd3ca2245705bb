"""Post-train a text-to-image flow model by adversarial reward, from a laptop to a cluster."""

__version__ = "0.1.0"
