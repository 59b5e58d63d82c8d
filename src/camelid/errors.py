"""The one exception that means "the person can mend this"."""


class UserError(ValueError):
    """What is wrong, where, and what to do, in one sentence.

    The command line prints it and ends with exit code 2. Every other exception is a defect of Camelid.
    """


class StoppedError(Exception):
    """SIGTERM or SIGINT came during long work; the message says what was saved."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number
