"""The monitor of a job: its state, pods, events and log, and the diagnosis of a failure."""
