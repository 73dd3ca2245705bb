"""Start, connection and observation of a task's processes."""
