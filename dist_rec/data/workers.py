"""Runs tasks on several worker processes, with progress; no worker outlives the run, however it ends."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, Self, TypeVar

from dist_rec.core.bar import tqdm
from dist_rec.core.errors import UserError

Result = TypeVar("Result", covariant=True)


class Report(Protocol):
    """Called by a running task to report its progress since the last call."""

    def __call__(self, work: int, count: int) -> None:
        """Adds to the work done, out of the total of `Workers.run`, and to the count of rows (or another unit)."""


class Task(Protocol[Result]):
    """A piece of work that can be sent to another process."""

    def run(self, report: Report) -> Result:
        """Does the work and returns its result."""


def available_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def preload(module: str) -> None:
    """Starts to import a module for all later workers; returns at once.

    Workers are forked from a server process that has imported the module, so that many start as fast as one.
    """
    # Children inherit the blocked signal, so that Ctrl-C reaches this process alone. The resource tracker starts first,
    # since the server would start it otherwise, and its start clears the mask.
    resource_tracker.ensure_running()
    with _interrupt_later():
        forkserver.set_forkserver_preload(["__main__", module])
        forkserver.ensure_running()


@contextmanager
def _interrupt_later() -> Iterator[None]:
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class Workers:
    """Processes that end with the one that started them; if `count` is 1, tasks run in the calling process.

    The tasks are defined in `module`.
    """

    def __init__(self, count: int, module: str) -> None:
        self._count, self._module = count, module
        self._processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> Self:
        if self._count > 1:
            preload(self._module)
            context = multiprocessing.get_context("forkserver")
            with _interrupt_later():  # a worker that starts without getting its arguments prints a traceback
                for _ in range(self._count):
                    here, there = context.Pipe()
                    self._processes[here] = process = context.Process(target=_work, args=(there,), daemon=True)
                    process.start()
                    there.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for connection, process in self._processes.items():
            if kind is not None:
                process.terminate()
            connection.close()
        for process in self._processes.values():
            process.join()

    def run(self, tasks: Sequence[Task[Result]], title: str, total: int, unit: str = "rows") -> list[Result]:
        """The results of all tasks in their order, with a progress bar on a terminal.

        Args:
            tasks: started in this order.
            title: title of the bar.
            total: the work that all tasks report together.
            unit: unit of the counts that they report.

        Raises:
            UserError: if a worker was killed. Errors of a task are raised as they are.
        """
        with _Bar(title, total, unit) as bar:
            if not self._processes:
                return [task.run(bar.add) for task in tasks]
            results = dict(self._results(tasks, bar))
        return [results[index] for index in range(len(tasks))]

    def _results(self, tasks: Sequence[Task[Result]], bar: "_Bar") -> Iterator[tuple[int, Result]]:
        coming = enumerate(tasks)
        busy: dict[Connection, int] = {}
        for connection, (index, task) in zip(self._processes, coming):  # noqa: B905
            connection.send(task)
            busy[connection] = index
        while busy:
            wait(busy)
            for connection in [connection for connection in busy if connection.poll()]:
                what, value = self._receive(connection)
                if what == "report":
                    bar.add(*value)
                elif what == "error":
                    raise value
                else:
                    yield busy.pop(connection), value
                    if following := next(coming, None):
                        busy[connection], task = following
                        connection.send(task)

    def _receive(self, connection: Connection) -> tuple[str, Any]:
        try:
            return connection.recv()
        except (EOFError, ConnectionResetError):
            raise UserError("a worker process was killed, perhaps for lack of memory; use fewer --workers") from None


def _work(connection: Connection) -> None:
    """Main loop of a worker: receives tasks, sends reports and results."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(work: int, count: int) -> None:
        connection.send(("report", (work, count)))

    with suppress(EOFError):  # no more tasks
        while True:
            task = connection.recv()
            try:
                connection.send(("result", task.run(report)))
            except Exception as error:
                error.add_note(traceback.format_exc())
                connection.send(("error", error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Bar:
    """Shows counts, counts per second and time left on stderr; if that is not a terminal, one line at the end."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._unit, self._count = title, unit, 0
        self._start, self._shown = time.perf_counter(), sys.stderr.isatty()
        form = title + " {percentage:3.0f}% |{bar:30}| {desc} [{elapsed}, {remaining} left]"
        self._bar = tqdm(total=total, disable=not self._shown, bar_format=form)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._bar.close()
        if kind is None and not self._shown:
            print(f"{self._title}: {self._speed()}", file=sys.stderr)

    def add(self, work: int, count: int) -> None:
        self._count += count
        self._bar.set_description_str(self._speed(), refresh=False)
        self._bar.update(work)

    def _speed(self) -> str:
        seconds = time.perf_counter() - self._start
        return f"{self._count:,} {self._unit}, {self._count / max(seconds, 1e-9):,.0f} {self._unit}/s"
