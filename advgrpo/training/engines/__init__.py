"""Training engines, which turn gradients of the ranks into optimizer steps of the adapter."""
