"""Speed and memory of `dist-rec prepare criteo` on synthetic rows, beside TorchRec's converter on the same rows.

    python benchmarks/prepare.py --rows 1000000 --more-rows 8000000

Ours is timed as a whole command, with the start of Python and of the workers; TorchRec's `tsv_to_npys` without its
imports. Peak memory is the largest sum of resident memory over the command and all its processes, polled from /proc.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.02
REFERENCE = """
import sys, time
from torchrec.datasets.criteo import BinaryCriteoUtils
start = time.perf_counter()
BinaryCriteoUtils.tsv_to_npys(sys.argv[1], *[f"{sys.argv[2]}/{name}.npy" for name in ("dense", "sparse", "labels")])
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Measured:
    """A finished command."""

    seconds: float
    peak_bytes: int
    output: str


def main() -> None:
    """Makes the rows, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows for the comparison of speed")
    parser.add_argument("--more-rows", type=int, default=8_000_000, help="rows for the comparison of memory")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder), arguments.rows, arguments.more_rows)


def measure(folder: Path, rows: int, more_rows: int) -> None:
    """All figures, each printed when it is known."""
    print(f"{os.cpu_count()} processors, load before {os.getloadavg()[0]:.1f}")
    raw = synthesize(folder, rows)
    plain = folder / "plain.tsv"
    with plain.open("wb") as file:
        for part in sorted(raw.glob("part_*")):
            subprocess.run(["gunzip", "-c", part], stdout=file, check=True)
    shutil.rmtree(raw)
    reference = run(sys.executable, "-c", REFERENCE, str(plain), str(folder))
    reference_rate = rows / float(reference.output.splitlines()[-1])
    print(f"{'torchrec tsv_to_npys':<34}{rows:>10,} rows{reference_rate:>12,.0f} rows/s{mib(reference)}")
    peaks = {}
    raw = synthesize(folder, rows)
    for title, options in (("--min-count 2", ("--min-count", "2")), ("--buckets 1000000", ("--buckets", "1000000"))):
        for form, source in (("plain", str(plain)), (".gz", f"{raw}/part_*.gz")):
            done = prepare(folder, source, options)
            peaks[title, form] = done.peak_bytes
            rate = rows / done.seconds
            against = f", {rate / reference_rate:.1f} x torchrec"
            print(f"{f'ours {title} {form}':<34}{rows:>10,} rows{rate:>12,.0f} rows/s{mib(done)}{against}")
    plain.unlink()
    shutil.rmtree(raw)
    raw = synthesize(folder, more_rows)
    for title, options in (("--min-count 2", ("--min-count", "2")), ("--buckets 1000000", ("--buckets", "1000000"))):
        done = prepare(folder, f"{raw}/part_*.gz", options)
        against = f", {done.peak_bytes / peaks[title, '.gz']:.2f} x that of {rows:,} rows"
        rate = more_rows / done.seconds
        print(f"{f'ours {title} .gz':<34}{more_rows:>10,} rows{rate:>12,.0f} rows/s{mib(done)}{against}")


def mib(done: Measured) -> str:
    """The peak as a column."""
    return f"{done.peak_bytes / 2**20:>8,.0f} MiB peak"


def synthesize(folder: Path, rows: int) -> Path:
    """Raw files of that many rows."""
    raw = folder / "raw"
    done = run(*command("synthesize"), "--rows", str(rows), "--out", str(raw))
    print(f"{'synthesize':<34}{rows:>10,} rows{rows / done.seconds:>12,.0f} rows/s{mib(done)}")
    return raw


def prepare(folder: Path, source: str, options: tuple[str, ...]) -> Measured:
    """One run of our command; its output is removed."""
    out = folder / "prepared"
    done = run(*command("prepare", "criteo"), "--train", source, *options, "--out", str(out), "--json")
    assert json.loads(done.output.splitlines()[-1])["rows"] > 0
    shutil.rmtree(out)
    return done


def command(*words: str) -> tuple[str, ...]:
    """Our command line in this Python."""
    return sys.executable, "-m", "dist_rec.cli.main", *words


def run(*words: str) -> Measured:
    """Runs a command to its end, watching its memory."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - start
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed; run it by itself to see why")
    return Measured(seconds, peak, output)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)


if __name__ == "__main__":
    main()
