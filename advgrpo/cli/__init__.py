"""The command line: parse, resolve, call."""
