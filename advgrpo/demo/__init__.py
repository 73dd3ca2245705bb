"""The demo: the whole pipeline on a laptop, with its own S3 and MLflow servers."""
