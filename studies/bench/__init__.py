"""What an update takes: `make bench` on pocket models, `make bench-gpu` at the shapes of SD3.5."""
