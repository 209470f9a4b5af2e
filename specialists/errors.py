"""The one error root of this distribution; only the command line turns these into exit codes."""


class RouterError(Exception):
    """Something the user can act on. The message is one sentence saying what was tried and what to do."""

    exit_code = 1


class BadInput(RouterError):
    """The question, file or option given cannot be used as it is."""

    exit_code = 2


class Refused(RouterError):
    """No specialist fits the question and no fallback was allowed."""

    exit_code = 3


class Damaged(RouterError):
    """Bytes are not what their hash or their manifest says: tampered, cut short or made for something else."""

    exit_code = 4


class Unavailable(RouterError):
    """Something needed is not here and could not be fetched: weights, network, disk space."""

    exit_code = 5
