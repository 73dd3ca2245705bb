"""The whole path on a laptop: its own stores, the pipeline, and what it came to."""
