"""Errors that a user can mend."""


class InputError(ValueError):
    """Something is wrong with what the user gave; the message is the whole story."""
