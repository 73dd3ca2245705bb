"""Prompts, reference images and the order in which they are drawn."""
