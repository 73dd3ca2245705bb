"""Reference image sets: generation, import, validation and reading."""
