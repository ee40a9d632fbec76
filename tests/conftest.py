"""Settings of all tests: none fails because the machine is slow, or because of the shell that started it."""

import os
import signal

from hypothesis import settings

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell ignores Ctrl-C for what it starts in the background, and all commands that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
