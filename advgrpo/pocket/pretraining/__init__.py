"""Pre-trains every pocket model from nothing; `python -m advgrpo.pocket.build` runs it all."""
