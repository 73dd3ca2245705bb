"""Coverage-guided fuzzing of parsers: `make fuzz`."""
