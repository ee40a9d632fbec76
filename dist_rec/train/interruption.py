"""Requests to stop: after SIGTERM or SIGUSR1 (a scheduler's warning) the run finishes its step and saves."""

import signal
from types import FrameType

import torch
import torch.distributed as dist

from dist_rec.core.process import Process, new_host_group

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EVERY = 10


class Interruption:
    """Records the signals, and makes all processes stop after the same step."""

    def __init__(self, process: Process) -> None:
        self._world, self._signal = process.world, 0
        self._group = new_host_group()
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the processes exchange messages only every `EVERY` steps."""
        return (self._world == 1 or step % EVERY == 0) and self.asked() is not None

    def asked(self) -> str | None:
        """The signal that asked a process to stop, or None; all call it, and exchange one small message on the host."""
        asked = torch.tensor(self._signal)
        if self._world > 1:
            dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group)
        return signal.Signals(int(asked)).name if asked else None
