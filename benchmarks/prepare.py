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


MODES = {"--min-count 2": ("--min-count", "2"), "--buckets 1000000": ("--buckets", "1000000")}


def main() -> None:
    """Makes the rows, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows for the comparison of speed")
    parser.add_argument("--more-rows", type=int, default=8_000_000, help="rows for the comparison of memory")
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many rounds is taken")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {arguments.repeats} rounds, the best counts")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        peaks = compare_speed(folder, arguments.rows, arguments.repeats)
        compare_memory(folder, arguments.more_rows, arguments.repeats, peaks)
    print(f"load {os.getloadavg()[0]:.1f}")


def compare_speed(folder: Path, rows: int, repeats: int) -> dict[str, int]:
    """Prints our speed and TorchRec's on the same rows; returns our peaks of memory on gzipped files."""
    raw = synthesize(folder, rows)
    plain = folder / "plain.tsv"
    with plain.open("wb") as file:
        for part in sorted(raw.glob("part_*")):
            subprocess.run(["gunzip", "-c", part], stdout=file, check=True)
    reference: list[float] = []
    ours: dict[tuple[str, str], list[Measured]] = {}
    for _ in range(repeats):
        reference.append(float(run(sys.executable, "-c", REFERENCE, str(plain), str(folder)).output.split()[-1]))
        for mode in MODES:
            for form, source in (("plain", str(plain)), (".gz", f"{raw}/part_*.gz")):
                ours.setdefault((mode, form), []).append(prepare(folder, source, mode))
    shutil.rmtree(raw)
    plain.unlink()
    print(f"{'torchrec tsv_to_npys, plain':<34}{rows:>10,} rows{rows / min(reference):>12,.0f} rows/s")
    for (mode, form), runs in ours.items():
        times = f"{min(reference) / best(runs).seconds:.1f} x torchrec"
        show(f"prepare {mode}, {form}", rows, runs, times)
    return {mode: peak(ours[mode, ".gz"]) for mode in MODES}


def compare_memory(folder: Path, rows: int, repeats: int, peaks: dict[str, int]) -> None:
    """Prints our speed and memory on more rows."""
    raw = synthesize(folder, rows)
    for mode in MODES:
        runs = [prepare(folder, f"{raw}/part_*.gz", mode) for _ in range(repeats)]
        show(f"prepare {mode}, .gz", rows, runs, f"memory {peak(runs) / peaks[mode]:.2f} x that of fewer rows")


def best(runs: list[Measured]) -> Measured:
    """The fastest."""
    return min(runs, key=lambda done: done.seconds)


def peak(runs: list[Measured]) -> int:
    """The largest memory."""
    return max(done.peak_bytes for done in runs)


def show(title: str, rows: int, runs: list[Measured], remark: str) -> None:
    """One line of the report."""
    rate = rows / best(runs).seconds
    print(f"{title:<34}{rows:>10,} rows{rate:>12,.0f} rows/s{peak(runs) / 2**20:>7,.0f} MiB  {remark}", flush=True)


def synthesize(folder: Path, rows: int) -> Path:
    """Raw files of that many rows."""
    raw = folder / "raw"
    done = run(*command("synthesize"), "--rows", str(rows), "--out", str(raw))
    show("synthesize", rows, [done], "")
    return raw


def prepare(folder: Path, source: str, mode: str) -> Measured:
    """One run of our command; its output is removed."""
    out = folder / "prepared"
    done = run(*command("prepare", "criteo"), "--train", source, *MODES[mode], "--out", str(out), "--json")
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
