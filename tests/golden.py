"""Do all configs train to the same numbers as before, bit for bit?

    python tests/golden.py make FOLDER --raw DATA_SETS      # at the commit before
    python tests/golden.py check FOLDER --raw DATA_SETS     # at the commit after: the same prepared data, new runs

Each config of configs/ trains 50 steps, stopped and resumed in the middle, with evaluations, in fp32 and in its own
precision, on one and two processes. FOLDER/golden.json has, for each, the loss of every step, all metrics and a hash of
every tensor of the last checkpoint. Only the command line is used, so that the script runs at any commit that has it.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
HALF, STEPS = 25, 50
# Not trained from scratch: it starts from a run of another config, which comes before it.
STARTS_FROM = {"llorma_ml1m": "mf_ml1m"}
# Records of a step that earlier commits do not write.
NEW = ("time", "lr", "embedding_lr", "grad_norm", "clipped")


def data_of_configs() -> dict[str, str]:
    """The data set that each config trains on, as the lists of configs/reproduce have it."""
    data = {"din_histories": "histories", "deep_adult": "adult"}
    for path in (CONFIGS / "reproduce").glob("*.toml"):
        for run in tomllib.loads(path.read_text())["run"]:
            if "config" in run:
                data.setdefault(Path(run["config"]).stem, run["data"])
    return data


def prepare(folder: Path, raw: Path) -> None:
    """Prepares what the configs train on, unless that is done."""
    commands = {}
    for path in (CONFIGS / "reproduce").glob("*.toml"):
        commands |= tomllib.loads(path.read_text())["data"]
    for name in sorted({*data_of_configs().values()}):
        if (folder / name).exists():
            continue
        if name == "histories":
            words = ["table", str(CONFIGS / "data/histories.toml"), *histories(folder)]
        else:
            words = [word.format(raw=raw, seed=0) for word in commands[name]]
        command = [sys.executable, "-m", "dist_rec.cli.main", "prepare", *words, "--out", str(folder / name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def histories(folder: Path) -> list[str]:
    """Synthetic clicks with histories, for DIN."""
    from tests.integration.test_din import write

    folder.mkdir(parents=True, exist_ok=True)
    files = [(split, write(folder / f"{split}.tsv", rows, rows)) for split, rows in (("train", 6000), ("valid", 999))]
    return [word for split, path in files for word in (f"--{split}", str(path))]


def jobs(folder: Path, world: int) -> list[dict[str, Any]]:
    """What is trained, in order."""
    data, found = data_of_configs(), []
    for config in sorted(data, key=lambda name: (name in STARTS_FROM, name)):
        own = tomllib.loads((CONFIGS / f"{config}.toml").read_text()).get("train", {}).get("precision", "bf16")
        for precision in dict.fromkeys(["fp32", own]):
            settings = [f"data.path={folder / 'data' / data[config]}", f"train.precision={precision}"]
            settings += ["train.log_every=1", f"train.evaluate_every={HALF}", "checkpoint.keep=1"]
            run = folder / "runs" / f"{config}-{precision}-{world}"
            if config in STARTS_FROM:
                settings.append(f"pretrained.runs=['{folder / 'runs' / f'{STARTS_FROM[config]}-{precision}-{world}'}']")
            found.append({"config": str(CONFIGS / f"{config}.toml"), "settings": settings, "run": str(run)})
    return found


def work(listed: list[dict[str, Any]], ports: list[int]) -> None:
    """Trains one after the other, in this process of WORLD_SIZE."""
    from dist_rec.cli.main import app

    # A port for each half of each job.
    each_port = iter(ports)
    for job in listed:
        for steps, more in ((HALF, []), (STEPS, ["--resume", "--allow-changes"])):
            os.environ["MASTER_PORT"] = str(next(each_port))
            words = ["train", job["config"], *job["settings"], f"train.steps={steps}", "--run-dir", job["run"], *more]
            try:
                app(words, prog_name="dist-rec", standalone_mode=False)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(job["run"], flush=True)
    os._exit(0)


def train_all(folder: Path, world: int, only: str) -> dict[str, Any]:
    """Trains on so many processes; the numbers of each run."""
    listed = [job for job in jobs(folder, world) if only in Path(job["run"]).name]
    ports = free_ports(2 * len(listed))
    processes = []
    for rank in range(world):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
        environment |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}
        if world > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            environment |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, __file__, "work", json.dumps([listed, ports])]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if rank else {"stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env=environment, text=True, **quiet))  # type: ignore[call-overload]
    said = processes[0].communicate()[1]
    if any(process.wait() for process in processes):
        sys.exit(said[-5000:])
    return {Path(job["run"]).name: numbers(Path(job["run"])) for job in listed}


def free_ports(number: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def numbers(run: Path) -> dict[str, Any]:
    """Losses, metrics and hashes of all tensors of a run."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key != "time"} for line in lines]
    result = json.loads((run / "result.json").read_text())
    (last,) = (run / "checkpoints").glob(f"step_*{STEPS}")
    dcp_to_torch_save(last, run / "state.pt")
    hashes = dict(tensor_hashes(run / "state.pt"))
    if run.name.split("-")[0] not in STARTS_FROM.values():
        shutil.rmtree(run / "checkpoints")
    return {"lines": kept, "valid": result.get("valid"), "test": result.get("test"), "tensors": hashes}


def canonical(run: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run that all commits tell, without the place of a head in the model and a VAE's step count."""
    names = {name: re.sub(r"\.(precise|objective|encoder)\.head\.", ".head.", name) for name in run["tensors"]}
    tensors = {names[name]: value for name, value in run["tensors"].items() if not name.endswith(".head.steps")}
    lines = [{key: value for key, value in line.items() if not key.startswith(NEW)} for line in run["lines"]]
    return {**run, "tensors": tensors, "lines": lines}


def tensor_hashes(path: Path) -> Any:
    """Name and hash of every tensor of a saved state."""
    import torch

    def walk(prefix: str, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                yield from walk(f"{prefix}/{key}", value[key])
        elif isinstance(value, torch.Tensor):
            data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            yield prefix, f"{[*value.shape]} {hashlib.sha256(data).hexdigest()[:16]}"

    state = torch.load(path, weights_only=False)
    path.unlink()
    yield from walk("", state)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "check"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--only", default="", help="configs whose name has this in it")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    prepare(folder / "data", arguments.raw.resolve())
    shutil.rmtree(folder / "runs", ignore_errors=True)
    found: dict[str, Any] = {}
    for world in (1, 2):
        found |= train_all(folder, world, arguments.only)
    golden = folder / "golden.json"
    if arguments.what == "make":
        golden.write_text(json.dumps(found, indent=1))
        print(f"{len(found)} runs in {golden}")
        return
    expected = json.loads(golden.read_text())
    bad = 0
    for name, own in found.items():
        before, after = canonical(expected[name]), canonical(json.loads(json.dumps(own)))
        differing = [key for key in after if after[key] != before[key]]
        bad += bool(differing)
        if differing:
            print(f"BAD  {name}: {', '.join(differing)}")
    print(f"{len(found) - bad} of {len(found)} runs have the same losses, metrics and tensors")
    sys.exit(bad > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1] == "work":
        work(*json.loads(sys.argv[2]))
    main()
