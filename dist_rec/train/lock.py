"""A lock on a folder: one process at a time writes there, and the lock file names it."""

import fcntl
import json
import logging
import os
import socket
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from dist_rec.core.errors import UserError
from dist_rec.core.process import job

log = logging.getLogger(__name__)


class Owner(NamedTuple):
    """A process that holds a lock, or held it when it ended."""

    host: str
    pid: int
    job: str
    """Identifier of the job, the same over its restarts; empty if the process was started by hand."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """Held from `take` to `release`, or until the process ends in any way. A released lock leaves an empty file.

    The operating system frees the lock (flock) of a process that has ended. On file systems without flock, such as some
    network file systems, the content of the file decides; then two processes that start at the same moment may both
    take the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._file is not None

    def take(self) -> None:
        """Takes the lock, unless this process holds it already.

        Raises:
            UserError: if another process holds it.
            OSError: if the file cannot be written.
        """
        if self._file is not None:
            return
        file, mine = FileIO(self.path, "a+"), Owner(socket.gethostname(), os.getpid(), job())
        try:
            locked = _flock(file)
            owner = _owner(file)
            if (refusal := _refusal(self.path, owner, mine, locked)) is not None:
                raise UserError(refusal)
            if owner is not None:
                log.warning("%s: taken over from %s, which has ended", self.path.parent, owner)
            file.truncate(0)
            file.write(json.dumps(mine._asdict()).encode())
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        """Frees the lock, if this process holds it."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def _flock(file: FileIO) -> bool | None:
    """Whether the operating system grants the lock on a file; None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _owner(file: FileIO) -> Owner | None:
    """The process that a lock file names; None if the lock was released or never taken."""
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None


def _refusal(path: Path, owner: Owner | None, mine: Owner, locked: bool | None) -> str | None:
    """The error for a process that may not take a lock; None if it may."""
    if locked is False:
        return f"{path.parent} is in use by {owner or 'another process'}; wait for its end or choose another --run-dir"
    if owner is None:
        return None
    if owner.host == mine.host:
        ended = locked or owner.pid == mine.pid or not Path(f"/proc/{owner.pid}").exists()
    else:
        # A job that restarts ends its old processes first, on every host.
        ended = owner.job == mine.job != ""
    return None if ended else f"{path.parent} is in use by {owner}; if that has ended, remove {path}"
