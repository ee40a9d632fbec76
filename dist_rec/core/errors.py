"""Errors that users see as a single line instead of a traceback."""

RESUMABLE = 75
"""Exit code of a run that was asked to stop and saved its state: EX_TEMPFAIL of sysexits.h."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; the message says how to go on."""


class UserError(Exception):
    """A fault that the user can correct: bad input, config or environment.

    The message is one line that names the place (file and row, feature, table, config key), the fault and the remedy.
    The command line prints it after `error:` and exits with code 2.
    """
