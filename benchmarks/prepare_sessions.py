"""Speed and memory of `dist-rec prepare sessions` on a synthetic click log.

    python benchmarks/prepare_sessions.py --events 10000000

Sessions overlap in time as those of a shop do, items follow Zipf's law, and the events come in the order of time.
Memory is the peak of the resident memory of a process that prepares them, less that of one that only imports.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

ITEMS = 50_000
EVENTS_A_SESSION = 3.6
"""As in the clicks of the RecSys challenge of 2015."""
SESSIONS_A_USER = 4
CHUNK = 1 << 20
RUN = """
import resource, sys
from pathlib import Path
from dist_rec.prepare.engine import prepare
from dist_rec.prepare.sessions.form import Columns
from dist_rec.prepare.sessions.options import Options
from dist_rec.prepare.sessions.source import SessionFiles
from dist_rec.prepare.sessions.split import splitter
if len(sys.argv) > 1:
    files, out, split, layout, settings = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], eval(sys.argv[5])
    source = SessionFiles([files], splitter(split, settings), Options(layout=layout), Columns())
    prepare(source, Path(out))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
CASES = (
    ("session item time", "parquet", "time", "sessions", {"test_days": 1}),
    ("session item time", "csv", "time", "sessions", {"test_days": 1}),
    ("user session item time", "parquet", "last-session", "sessions", {"validation": True}),
    ("user item time", "parquet", "leave-one-out", "users", {}),
    ("user item time", "parquet", "fraction", "windows", {}),
)


def main() -> None:
    """Makes the log, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="some of the cases, from 0")
    arguments = parser.parse_args()
    idle, _ = run()
    print(f"an import-only process: {idle / 2**20:,.0f} MiB")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for case in arguments.cases:
            names, form, split, layout, settings = CASES[case]
            log = write(folder, arguments.events, names.split(), form)
            peak, seconds = run(str(log), str(folder / f"out{case}"), split, layout, repr(settings))
            print(
                f"{names:<24}{form:<8} {split:<14}{layout:<9}{(peak - idle) / arguments.events:>6.1f} bytes/event"
                f"{arguments.events / seconds:>12,.0f} events/s",
                flush=True,
            )


def run(*words: str) -> tuple[int, float]:
    """Peak of the resident memory in bytes, and seconds."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.splitlines()[-1]), time.perf_counter() - start


def write(folder: Path, events: int, names: list[str], form: str) -> Path:
    """A log with some of the columns."""
    path = folder / f"{'_'.join(names)}.{form}"
    rng = np.random.default_rng(0)
    sessions = int(events / EVENTS_A_SESSION)
    schema = pa.schema([(name, pa.int64()) for name in names])
    with pq.ParquetWriter(path, schema) if form == "parquet" else pacsv.CSVWriter(path, schema) as writer:
        for start in range(0, events, CHUNK):
            size = min(CHUNK, events - start)
            # A session's events lie among some thousands of others.
            session = ((start + np.arange(size)) / EVENTS_A_SESSION + rng.integers(0, 1000, size)).astype(np.int64)
            columns = {
                "session": session % sessions + 1,
                "user": session % (sessions // SESSIONS_A_USER) * 7919 % 99_999_989,
                "item": rng.zipf(1.2, size) % ITEMS + 214_000_000,
                "time": 1_396_000_000_000 + (start + np.arange(size)) * 480,
            }
            writer.write_table(pa.table({name: columns[name] for name in names}))
    return path


if __name__ == "__main__":
    main()
