"""Progress bars."""

import threading

from tqdm import tqdm

__all__ = ["tqdm"]

# Its own lock is of several processes: a named semaphore, which stays behind in a process that ends without teardown.
tqdm.set_lock(threading.RLock())
