"""The error for mistakes of the user.

A mistake in a path, a config value or a workdir raises `UserError`. `main.py` prints its message
and exits with code 2. Any other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Bad input. The message is one line; it names the fault and says what to do about it."""
