"""Environment variables with S3 credentials, which are also the keys of the chart's Secret."""

S3_REQUIRED_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

S3_KEYS = (*S3_REQUIRED_KEYS, "AWS_SESSION_TOKEN")
"""All of them; servers refuse temporary credentials without their session token."""


def has_s3_credentials() -> bool:
    """Return whether this machine has credentials for S3: variables, files or an identity."""
    # A third of a second, which only a check of this kind needs.
    import boto3  # noqa: PLC0415

    return boto3.session.Session().get_credentials() is not None
