"""Errors that speak to the user: one line that names the file or flag and says what to do."""


class PmaeError(Exception):
    """A failure the user should read as one line, without a traceback. The command ends with exit code 1."""

    exit_code = 1


class UsageError(PmaeError):
    """A flag, setting or argument that cannot be right. The command ends with exit code 2."""

    exit_code = 2
