"""Rank, device and process group of this process, from the environment variables of torchrun.

torchrun (or SLURM through it) starts many processes; a process started by hand is the only one.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from dist_rec.core.errors import UserError
from dist_rec.core.memory import keep_freed_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """Rank and device of this process."""

    rank: int
    world: int
    local_rank: int
    """Rank among the processes of this node."""
    local_world: int
    device: torch.device
    """CUDA where the machine has it, else CPU."""

    @property
    def first(self) -> bool:
        """True on the one process that writes files and prints to the user."""
        return self.rank == 0


def this_process(device: str = "auto") -> Process:
    """Reads the environment; raises UserError if it is invalid or the device does not exist."""
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local_rank, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", world))
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE must be integers: {error}") from None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {rank} needs GPU {local_rank} of this node, but it has {torch.cuda.device_count()}; "
            "start fewer processes per node or set train.device=cpu"
        )
    own = torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")
    return Process(rank, world, local_rank, local_world, own)


@contextmanager
def process_group(process: Process, timeout_s: int = 1800) -> Iterator[None]:
    """The default process group: NCCL for CUDA tensors, Gloo for CPU ones; destroyed at the end.

    On CPUs, freed memory is kept for the next tensors (`keep_freed_memory`).

    After an exception the group is not destroyed, which would wait for processes that wait for this one.

    Raises:
        UserError: if the rendezvous fails, for example because its port is in use.
    """
    backend = "cpu:gloo,cuda:nccl" if process.device.type == "cuda" else "gloo"
    if process.device.type == "cuda":
        torch.cuda.set_device(process.device)
    else:
        keep_freed_memory()
    timeout = timedelta(seconds=timeout_s)
    try:
        store = _store(process, timeout)
        dist.init_process_group(backend, store=store, rank=process.rank, world_size=process.world, timeout=timeout)
    except (dist.DistNetworkError, dist.DistStoreError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).splitlines()[0]
        raise UserError(
            f"process {process.rank} on {socket.gethostname()} cannot reach the rendezvous at {where}: {reason}; "
            "if another run uses the port, choose another MASTER_PORT"
        ) from None
    yield
    dist.destroy_process_group()


def new_host_group() -> dist.ProcessGroup:
    """A second group of all processes, for small messages on the host; all processes must create it."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def _store(process: Process, timeout: timedelta) -> dist.Store | None:
    """The store for the rendezvous; None leaves the choice to torch.

    torchrun keeps one store over its restarts, which still holds the addresses of processes that have ended, so a
    prefix separates the restarts. It is the same on all processes of one node; the launchers of several nodes ask
    torchrun for a new store instead (TORCH_DISABLE_SHARE_RDZV_TCP_STORE).
    """
    if process.world == 1 and "MASTER_ADDR" not in os.environ:
        return dist.HashStore()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or process.local_world != process.world:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, process.world, is_master=False, timeout=timeout)
    return dist.PrefixStore(f"start_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def job() -> str:
    """Id of this process's job, the same over all restarts; empty if it was started by hand."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return os.environ.get("SLURM_JOB_ID") or ("" if run == "none" else run)


def on_first(process: Process, function: Callable[[], T]) -> T:
    """Runs a function on the first process and returns its result, or raises its UserError, on all of them."""
    result: list[T | UserError | None] = [None]
    if process.first:
        try:
            result = [function()]
        except UserError as error:
            result = [error]
    dist.broadcast_object_list(result, src=0)
    if isinstance(result[0], UserError):
        raise result[0]
    return result[0]  # type: ignore[return-value]


def on_all(function: Callable[[], T], group: dist.ProcessGroup | None = None) -> list[T]:
    """Runs a function on every process of a group (None: of all) and returns all results, by rank, on each of them.

    Results must be picklable. A failure is gathered like a result, so that no process waits for one that failed.

    Raises:
        RuntimeError: on all processes, with the message of the first one that failed.
    """
    result: tuple[T | None, str | None]
    try:
        result = function(), None
    except Exception as error:
        result = None, str(error) or type(error).__name__
    results = [result] * dist.get_world_size(group)
    dist.all_gather_object(results, result, group=group)
    failed = next((error for _, error in results if error is not None), None)
    if failed is not None:
        raise RuntimeError(failed)
    return [value for value, _ in results]  # type: ignore[misc]
