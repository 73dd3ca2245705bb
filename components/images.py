"""The container images that components run in."""

import os

TRAINER = os.environ.get("ADVGRPO_IMAGE", "advgrpo-python:0.1.0")
"""Holds advgrpo with all of its dependencies, and kfp. The environment variable is read when the
pipeline is compiled."""
