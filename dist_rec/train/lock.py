"""The lock of a folder: one process at a time writes there, and a file says which."""

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
    """A process that has, or had, a lock."""

    host: str
    pid: int
    job: str
    """The same over all restarts of a job; empty if started by hand."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """Held from `take` to `release`, or until the process ends, however it ends.

    The system frees a lock (flock) of a process that is gone. On file systems without locks, such as some of a network,
    what the file says decides, which cannot tell two processes apart that start within the same moment.

    Args:
        path: of the file; released, it stays and is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._file is not None

    def take(self) -> None:
        """Takes the lock, unless this process has it already.

        Raises:
            UserError: if another process has it.
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
                log.warning("%s: taken over from %s, which is gone", self.path.parent, owner)
            file.truncate(0)
            file.write(json.dumps(mine._asdict()).encode())
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        """Lets other processes take the lock; does nothing if this one has it not."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def _flock(file: FileIO) -> bool | None:
    """Whether the system gives this process the lock of a file; None if the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _owner(file: FileIO) -> Owner | None:
    """The process that a lock's file names; None if it was released or never taken."""
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None


def _refusal(path: Path, owner: Owner | None, mine: Owner, locked: bool | None) -> str | None:
    """Why a process may not take a lock, or None."""
    if locked is False:
        return f"{path.parent} is in use by {owner or 'another process'}; wait for its end or choose another --run-dir"
    if owner is None:
        return None
    if owner.host == mine.host:
        gone = locked or owner.pid == mine.pid or not Path(f"/proc/{owner.pid}").exists()
    else:
        # A restart of a job ends its old processes first, on every host.
        gone = owner.job == mine.job != ""
    return None if gone else f"{path.parent} is in use by {owner}; if that has ended, remove {path}"
