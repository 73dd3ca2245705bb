"""Kubeflow components: a signature, a docstring and one call of the library."""
