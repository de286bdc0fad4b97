"""Errors that a user can mend."""


class InputError(ValueError):
    """Something is wrong with what the user gave; the message is the whole story."""


class ChangedError(InputError):
    """A file was changed while it was read, so that what was made of it does not count."""

    def __init__(self, path):
        super().__init__(
            f"{path}: the file was changed while it was read, and what was made of it does not "
            "count; give the same command again, once nothing writes to it any more"
        )
