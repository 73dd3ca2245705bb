"""Kill the pocket job at random instants and compare what it ends with: `make crash-test`."""
