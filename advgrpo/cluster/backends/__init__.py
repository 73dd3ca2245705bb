"""Job backends, one file for each kind of job."""
