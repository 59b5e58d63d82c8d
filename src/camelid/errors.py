"""The one exception that means "the person can mend this"."""


class UserError(ValueError):
    """What is wrong, where, and what to do, in one sentence.

    The command line prints it and ends with exit code 2. Every other exception is a defect of Camelid.
    """
