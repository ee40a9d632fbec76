"""The one exception that users see as a single line instead of a traceback."""


class UserError(Exception):
    """Something the user can mend: bad input, config or environment.

    The message is one line that names the place (file and row, feature, table, config key) and says what to do.
    The command line prints it after `error:` and exits with code 2.
    """
