"""Environment variables with S3 credentials, which are also the keys of the chart's Secret."""

S3_REQUIRED_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

S3_KEYS = (*S3_REQUIRED_KEYS, "AWS_SESSION_TOKEN")
"""All of them; servers refuse temporary credentials without their session token."""
