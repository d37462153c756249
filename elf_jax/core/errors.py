"""The one error a user is meant to read.

Everything a user can get wrong (a path, a config value, a workdir) is raised as `UserError` with
one line that names the fault and the remedy. `main.py` prints that line and exits with code 2;
any other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Bad input: the message is one line, names the fault and says what to do about it."""
