"""torchrun with readable errors: `python -m dist_rec.cli.launch [torchrun's options] -m dist_rec.cli.main COMMAND …`.

torchrun prints the output of every process, and then a report on all of them. Here each process leaves a note with the
reason of its end, and the user sees only the one that explains the others.
"""

import logging
import os
import signal
import sys
import tempfile
import uuid
from argparse import Namespace
from pathlib import Path

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import parse_args, run

from dist_rec.core.errors import RESUMABLE
from dist_rec.core.log import NOTES, Note, quiet_libraries, read_notes


def main() -> None:
    """Starts the processes, and exits with the code of the process that explains the failure of the others."""
    quiet_libraries()
    arguments = parse_args(sys.argv[1:])
    if arguments.standalone:
        _meet_on_loopback(arguments)
    if not os.environ.get("DIST_REC_VERBOSE"):
        # Restarts are logged. The end of a process is not: its note explains it.
        level = logging.ERROR if arguments.max_restarts else logging.CRITICAL
        for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
            logging.getLogger(name).setLevel(level)
    with tempfile.TemporaryDirectory(prefix="dist_rec_") as folder:
        os.environ[NOTES] = folder
        arguments.log_dir = arguments.log_dir or folder
        message, code = _launch(arguments, Path(folder))
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def _meet_on_loopback(arguments: Namespace) -> None:
    """Connects the processes of one machine by loopback; torchrun and Gloo would resolve its host name."""
    arguments.standalone = False
    arguments.rdzv_backend, arguments.rdzv_endpoint, arguments.rdzv_id = "c10d", "127.0.0.1:0", str(uuid.uuid4())
    arguments.local_addr = arguments.local_addr or "127.0.0.1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _launch(arguments: Namespace, folder: Path) -> tuple[str, int]:
    try:
        run(arguments)
    except ChildFailedError as error:
        return verdict(read_notes(folder), error.failures)
    except (SignalException, KeyboardInterrupt) as error:
        number = getattr(error, "sigval", signal.SIGINT)
        saved = [note for note in read_notes(folder) if note.code == RESUMABLE]
        return (saved[0].message, RESUMABLE) if saved else ("interrupted", 128 + number)
    except (RendezvousError, dist.DistNetworkError, dist.DistStoreError, ValueError) as error:
        return f"error: the processes cannot meet: {str(error).splitlines()[0]}", 2
    return "", 0


def verdict(notes: list[Note], failures: dict[int, ProcessFailure]) -> tuple[str, int]:
    """The message and exit code that explain the failure of a run of several processes.

    Once one process has ended, the others fail, too, or are ended. Therefore an error of the user comes first, then a
    process that was killed, then the earliest failure of the rest.

    Args:
        notes: of the processes that left one, the earliest first.
        failures: all failed processes, by rank.
    """
    mistakes = [note for note in notes if note.code == 2]
    killed = {rank: -failure.exitcode for rank, failure in failures.items() if failure.exitcode < 0}
    killed = {rank: number for rank, number in killed.items() if number != signal.SIGTERM}
    if not mistakes and killed:
        rank, number = min(killed.items())
        hint = "; was memory short?" if number == signal.SIGKILL else ""
        return f"error: process {rank} was killed by {signal.Signals(number).name}{hint}", 128 + number
    if notes:
        first = (mistakes or notes)[0]
        return first.message, first.code
    rank, failure = min(failures.items())
    return f"error: process {rank} ended with exit code {failure.exitcode}", abs(failure.exitcode)


if __name__ == "__main__":
    main()
