import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from dist_rec.core.process import on_all
from tests.processes import ProcessFailure, run_distributed


def _sum_of_ranks(offset: int) -> tuple[int, torch.Tensor]:
    total = torch.tensor([dist.get_rank() + offset])
    dist.all_reduce(total)
    return int(os.environ["LOCAL_RANK"]), total


def _thread_counts() -> tuple[int, int]:
    return torch.get_num_threads(), int(os.environ["OMP_NUM_THREADS"])


def _raise_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise ValueError("table full")
    dist.barrier()


def _on_all_but_rank_1() -> list[object]:
    def fails_on_rank_1() -> int:
        if dist.get_rank() == 1:
            raise OSError(5, "Input/output error")
        return dist.get_rank()

    message = ""
    try:
        on_all(fails_on_rank_1)
    except RuntimeError as error:
        message = str(error)
    return [message, on_all(dist.get_rank)]


def _hang_on_rank_2() -> None:
    if dist.get_rank() == 2:
        time.sleep(1000)


def _die_on_rank_0() -> None:
    if dist.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    # Not in a collective, whose error might be reported before the death is.
    time.sleep(1000)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_values_come_back_by_rank(world_size: int) -> None:
    results = run_distributed(_sum_of_ranks, world_size, 10)
    assert [rank for rank, _ in results] == list(range(world_size))
    expected = sum(range(world_size)) + 10 * world_size
    assert all(total.item() == expected for _, total in results)


def test_ranks_have_one_thread() -> None:
    assert run_distributed(_thread_counts, 2) == [(1, 1), (1, 1)]


def test_what_fails_on_one_process_is_raised_on_all_which_stay_in_step() -> None:
    assert run_distributed(_on_all_but_rank_1, 3) == [["[Errno 5] Input/output error", [0, 1, 2]]] * 3


def test_a_failing_rank_is_named_and_stops_the_others() -> None:
    start = time.monotonic()
    with pytest.raises(ProcessFailure, match=r"(?s)^rank 1 of 3 failed:.*_raise_on_rank_1.*ValueError: table full"):
        run_distributed(_raise_on_rank_1, 3, timeout=60)
    assert time.monotonic() - start < 50


def test_hanging_ranks_are_named_with_their_stacks() -> None:
    with pytest.raises(ProcessFailure, match=r"(?s)of 3 ranks, these did not finish: 2\n.*_hang_on_rank_2"):
        run_distributed(_hang_on_rank_2, 3, timeout=8)


def test_a_dead_rank_is_named_with_its_exit_code() -> None:
    with pytest.raises(ProcessFailure, match=r"rank 0 of 2 died with exit code -9"):
        run_distributed(_die_on_rank_0, 2, timeout=60)
