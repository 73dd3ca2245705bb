"""Pre-training of the pocket models; `python -m studies.pocket.build` builds all of them."""
