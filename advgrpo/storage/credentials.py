"""Environment variables with the credentials of an S3 server, also the keys of the Secret."""

S3_REQUIRED_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

# Temporary credentials are refused without their session token.
S3_KEYS = (*S3_REQUIRED_KEYS, "AWS_SESSION_TOKEN")
"""All that a process which reaches S3 may be given; the token is optional."""
