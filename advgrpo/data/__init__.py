"""Prompts and images: reading, conversion, splits and sampling order."""
