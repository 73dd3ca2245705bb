"""Search by coverage for inputs that are neither understood nor refused: `make fuzz`."""
