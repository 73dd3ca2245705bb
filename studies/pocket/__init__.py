"""Pre-trains every pocket model from nothing; `python -m studies.pocket.build` runs it all."""
