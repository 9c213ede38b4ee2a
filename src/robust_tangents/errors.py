"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something given from outside (configuration, file, folder) cannot be used.

    The message is one line: the file or key, what is wrong, and what would be right. Command lines print it without a
    traceback and end with status 1.
    """
