"""Progress bars."""

import threading

from tqdm import tqdm

__all__ = ["tqdm"]

# tqdm's default lock spans processes: a named semaphore, which leaks if the process ends without teardown.
tqdm.set_lock(threading.RLock())
