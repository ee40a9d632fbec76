"""Being asked to stop: SIGTERM and SIGUSR1 (a scheduler's warning) let the run finish its step and save."""

import signal
from types import FrameType

import torch
import torch.distributed as dist

from dist_rec.core.process import Process, new_host_group

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EVERY = 10


class Interruption:
    """Notes the signals and lets all processes agree on the step to stop after.

    Args:
        process: this one.
    """

    def __init__(self, process: Process) -> None:
        self._world, self._asked = process.world, False
        self._group = new_host_group()
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; to save messages the processes ask each other every few steps only."""
        return self.asked() if self._world == 1 or step % EVERY == 0 else False

    def asked(self) -> bool:
        """Whether any process was asked to stop; called by all, one small message on the host."""
        if self._world == 1:
            return self._asked
        asked = torch.tensor(int(self._asked))
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group)
        return bool(asked)
