"""An S3 server and an MLflow server of our own, for a laptop."""

from advgrpo.stores.embedded import BUCKET, EmbeddedStores

__all__ = ["BUCKET", "EmbeddedStores"]
