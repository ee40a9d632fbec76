"""Memory and speed of `dist-rec prepare ratings` on random ratings.

    python benchmarks/prepare_ratings.py --events 10000000

The lines are the same each time: users and items uniform, five ratings, times in no order. The command runs as users
run it; its peak is the largest resident memory that the system saw of it, less that of a process that only imports.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

CHUNK = 1_000_000
FIRST_SECOND, SECONDS = 1_000_000_000, 500_000_000
# VmHWM, unlike what the system tells a parent, begins anew with the program.
IMPORT = """
import re, sys
import dist_rec.prepare.ratings.source
from dist_rec.cli.main import app
{run}
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]))
"""
RUN = "app(sys.argv[1:], standalone_mode=False)"
SPLITS = {
    "random": (),
    "leave-one-out": (),
    "chronological": (),
    "held-out-users": ("--valid-users", "1000", "--test-users", "1000"),
}


@dataclass(frozen=True)
class Measured:
    """A finished process."""

    seconds: float
    peak_bytes: int


def main() -> None:
    """Makes the lines, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="lines of the file")
    parser.add_argument("--users", type=int, default=138_000, help="that the events are of")
    parser.add_argument("--items", type=int, default=27_000, help="that the events are of")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=["random"], help="splits to prepare")
    parser.add_argument("--layout", nargs="+", default=["users", "interactions"], help="layouts to prepare")
    parser.add_argument("--options", default="", help="further options of the command, in one word")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {arguments.events:,} events")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        raw, out = Path(name) / "ratings.csv", Path(name) / "prepared"
        with pacsv.CSVWriter(raw, chunk(0, 0, 1, 1).schema, write_options=FORM) as writer:
            for table in lines(arguments.events, arguments.users, arguments.items):
                writer.write(table)
        base = run("pass").peak_bytes
        for layout, split in ((layout, split) for layout in arguments.layout for split in arguments.split):
            if split == "held-out-users" and layout != "users":
                continue
            options = ("--split", split, *SPLITS[split], "--layout", layout, *arguments.options.split())
            done = run(RUN, "prepare", "ratings", str(raw), *options, "--out", str(out))
            shutil.rmtree(out)
            per_event, rate = (done.peak_bytes - base) / arguments.events, arguments.events / done.seconds
            print(f"{layout:<14}{split:<16}{per_event:>7.1f} bytes/event{rate:>12,.0f} events/s", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


FORM = pacsv.WriteOptions(include_header=False, quoting_style="none")


def lines(events: int, users: int, items: int) -> Iterator[pa.Table]:
    """The same user, item, rating and time each time."""
    for number, start in enumerate(range(0, events, CHUNK)):
        yield chunk(number, min(CHUNK, events - start), users, items)


def chunk(number: int, events: int, users: int, items: int) -> pa.Table:
    """Some of the lines."""
    random = np.random.default_rng(number)
    return pa.table(
        {
            "user": random.integers(1, users + 1, events),
            "item": random.integers(1, items + 1, events),
            "rating": random.integers(1, 6, events),
            "time": FIRST_SECOND + random.integers(0, SECONDS, events),
        }
    )


def run(code: str, *words: str) -> Measured:
    """Runs the command, or only imports it."""
    start = time.perf_counter()
    program = (sys.executable, "-c", IMPORT.format(run=code), *words)
    done = subprocess.run(program, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
    return Measured(time.perf_counter() - start, int(done.stdout.split()[-1]))


if __name__ == "__main__":
    main()
