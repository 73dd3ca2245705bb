"""Kubeflow components: signature, docstring, one call of the library."""
