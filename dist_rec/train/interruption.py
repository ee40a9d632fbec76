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
        self._world, self._asked = process.world, False
        self._group = new_host_group()
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the processes exchange messages only every `EVERY` steps."""
        return (self._world == 1 or step % EVERY == 0) and self.asked()

    def asked(self) -> bool:
        """Whether any process was asked to stop; all processes call it, and exchange one small message on the host."""
        if self._world == 1:
            return self._asked
        asked = torch.tensor(int(self._asked))
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group)
        return bool(asked)
