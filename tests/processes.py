"""Runs a function on several Gloo processes of this machine and brings back what each returned or why it failed.

Every call gets fresh processes, so no test sees another's process group, random state or environment. They are forked
from a server that has imported the heavy packages and started no thread, which makes a call cost a fraction of a
second instead of an import of torch on every rank.
"""

import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

PRELOADED = ["torch.distributed.checkpoint", "torchrec", "sklearn.metrics", "hypothesis", "pytest"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
EXIT_SECONDS = 10
T = TypeVar("T")


class ProcessFailure(Exception):
    """A rank raised, died or did not finish; the message holds the traceback or stack of every such rank."""


@dataclass
class _Rank:
    number: int
    process: BaseProcess
    reports: Connection
    stack: Path


def run_distributed(function: Callable[..., T], world_size: int, *args: Any, timeout: float = 120) -> list[T]:
    """Calls `function(*args)` on every rank, inside an initialised Gloo process group, and returns the values by rank.

    The environment is torchrun's on one node (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...) and torch has one thread.
    Once a rank fails, the others are killed.

    Args:
        function: defined at the top level of a module, which pickling needs; asks torch.distributed for its rank.
        world_size: number of processes, at least 1.
        args: picklable, the same for all ranks.
        timeout: seconds for the whole call.

    Raises:
        ProcessFailure: naming the ranks that raised (with their tracebacks, the first to fail first), died (with the
            exit code) or did not finish in time (with the stacks they hung in).
    """
    work = pickle.dumps((function, args))
    deadline = time.monotonic() + timeout
    # The parent serves the store, as torchrun's agent does: the port is bound before any rank hears of it.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder, _kill_on_exit() as ranks:
        for number in range(world_size):
            ranks.append(_start(number, world_size, store.port, work, timeout, Path(folder) / f"{number}.stack"))
        values = _collect(ranks, deadline)
        for rank in ranks:
            rank.process.join(EXIT_SECONDS)
    return [values[rank] for rank in range(world_size)]


@cache
def _context() -> ForkServerContext | SpawnContext:
    # A CUDA driver that some import has touched does not survive a fork.
    if torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    saved = dict(os.environ)
    os.environ.update(ONE_THREAD)  # a thread pool does not survive a fork either
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(saved)
    return context


def _start(rank: int, world_size: int, port: int, work: bytes, timeout: float, stack: Path) -> _Rank:
    environment = {
        **os.environ,
        **ONE_THREAD,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 joins the store at that port and does not serve its own
        "GLOO_SOCKET_IFNAME": "lo",
    }
    reports, sender = _context().Pipe(duplex=False)
    process = _context().Process(target=_child, args=(environment, work, timeout, sender, stack), daemon=True)
    process.start()
    sender.close()
    return _Rank(rank, process, reports, stack)


def _child(environment: dict[str, str], work: bytes, timeout: float, reports: Connection, stack: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with stack.open("w") as stack_file:
        faulthandler.register(signal.SIGUSR1, file=stack_file)
        try:
            torch.set_num_threads(1)
            dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
            function, args = pickle.loads(work)
            # Pickled here: multiprocessing would pass tensors as handles to memory that ends with this process.
            reports.send_bytes(pickle.dumps((True, function(*args))))
        except BaseException:
            reports.send_bytes(pickle.dumps((False, (time.monotonic(), traceback.format_exc()))))
            os._exit(1)  # no teardown that might wait for the other ranks
        if dist.is_initialized():
            dist.barrier()  # no rank leaves while another still receives from it
            dist.destroy_process_group()


@contextmanager
def _kill_on_exit() -> Iterator[list[_Rank]]:
    ranks: list[_Rank] = []
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()
            rank.reports.close()


def _collect(ranks: list[_Rank], deadline: float) -> dict[int, Any]:
    """Receives one report a rank; raises at the first failure or at the deadline."""
    values: dict[int, Any] = {}
    waiting = {rank.reports: rank for rank in ranks}
    while waiting:
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ProcessFailure(_hang(list(waiting.values()), len(ranks)))
        failures: list[tuple[float, str]] = []
        for reports in ready:
            rank = waiting.pop(reports)  # type: ignore[call-overload]
            good, value = _receive(rank)
            if good:
                values[rank.number] = value
            else:
                failures.append((value[0], f"rank {rank.number} of {len(ranks)} {value[1]}"))
        if failures:
            raise ProcessFailure("\n".join(message for _, message in sorted(failures)))
    return values


def _receive(rank: _Rank) -> tuple[bool, Any]:
    try:
        good, value = pickle.loads(rank.reports.recv_bytes())
    except EOFError:
        rank.process.join(EXIT_SECONDS)
        return False, (0.0, f"died with exit code {rank.process.exitcode}")
    return good, value if good else (value[0], f"failed:\n{value[1]}")


def _hang(hanging: list[_Rank], world_size: int) -> str:
    for rank in hanging:
        os.kill(rank.process.pid or 0, signal.SIGUSR1)
    time.sleep(0.5)  # for the stacks to be written
    names = ", ".join(str(rank.number) for rank in hanging)
    stacks = [f"rank {rank.number}:\n{rank.stack.read_text()}" for rank in hanging if rank.stack.exists()]
    return "\n".join([f"timeout: of {world_size} ranks, these did not finish: {names}", *stacks])
