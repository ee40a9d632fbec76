"""What launch/install.sh does once it has found a Python that fits: makes .venv and installs into it.

Nothing half-made is left behind: an environment that this run began goes away if it fails, and one that a killed run
left is made anew, as the file `installing` in it tells.
"""

import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dist_rec.core import versions  # noqa: E402

ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin/python"
BEGUN, DONE = ENVIRONMENT / "installing", ENVIRONMENT / "installed"
# Of everything together, measured with torch 2.13 (CPU) and 2.14 (CUDA).
SIZES = {"CPU": "0.4 GB to download, 1.6 GB on disk", "CUDA": "3.1 GB to download, 7 GB on disk"}
UNREACHABLE = "the package index cannot be reached; is there a network, or a proxy or an index to set?"


class InstallError(Exception):
    """Something the user can correct, in one line."""


def main() -> int:
    """Makes or brings up to date the environment; returns the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    began, fresh = time.monotonic(), False
    try:
        cuda, wanted = _accelerator() == "cuda", _wanted_torch()
        fresh = _prepare_folder()
        _install(_installer(fresh), cuda, wanted)
    except (InstallError, KeyboardInterrupt) as error:
        _clean_up(fresh, interrupted=isinstance(error, KeyboardInterrupt))
        print(f"error: {error}" if str(error) else "interrupted", file=sys.stderr)
        return 2 if str(error) else 130
    BEGUN.unlink()
    DONE.touch()
    print(f"installed in {time.monotonic() - began:.0f} s")
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _prepare_folder() -> bool:
    """Looks at what is there of an environment; returns True if a new one is to be made."""
    if not os.access(ROOT, os.W_OK):
        raise InstallError(f"{ROOT} cannot be written to; make a copy of it where you can write")
    packages = ENVIRONMENT.glob("lib/python*/site-packages/*")
    if not ENVIRONMENT.exists() or BEGUN.exists() or not any(packages):
        return _begin()
    command = [PYTHON, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    try:
        version = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        version = ""
    if version in versions.PYTHON:
        return False
    if not DONE.exists():
        raise InstallError(f"{ENVIRONMENT} has no Python that fits; remove it")
    return _begin()  # An installation of ours whose Python has been taken away.


def _begin() -> bool:
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    ENVIRONMENT.mkdir(exist_ok=True)
    BEGUN.touch()
    return True


def _clean_up(fresh: bool, interrupted: bool) -> None:
    if fresh:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    elif not interrupted:  # The installer has put back what it had begun to replace.
        BEGUN.unlink(missing_ok=True)


def _installer(fresh: bool) -> list[str]:
    """Makes the environment if need be; returns the command that installs into it."""
    if fresh:
        _run([*_maker(), str(ENVIRONMENT)], "the environment could not be made")
    BEGUN.touch()
    if next(ENVIRONMENT.glob("lib/python*/site-packages/pip"), None):
        return [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
    if shutil.which("uv"):
        return ["uv", "pip"]
    raise InstallError(f"{ENVIRONMENT} has no pip, and uv is not on the PATH; remove it")


def _maker() -> list[str]:
    """The command that makes an environment with this Python, from what the machine has."""
    if importlib.util.find_spec("ensurepip"):  # Debian splits it off, and with it what makes venv work.
        return [sys.executable, "-m", "venv"]
    if shutil.which("uv"):
        return ["uv", "venv", "--quiet", "--allow-existing", "--python", sys.executable]
    if importlib.util.find_spec("virtualenv"):
        return [sys.executable, "-m", "virtualenv", "--quiet"]
    if shutil.which("virtualenv"):
        return ["virtualenv", "--quiet", "--python", sys.executable]
    raise InstallError(f"{sys.executable} has no venv module: {_venv_package()}, or install uv")


def _venv_package() -> str:
    """The command that brings the venv module on this machine's system."""
    python = "python{}.{}".format(*sys.version_info)
    if shutil.which("apt-get"):
        return f"apt-get install {python}-venv"
    if shutil.which("dnf"):
        return f"dnf install {python}"
    if shutil.which("apk"):
        return "apk add python3"
    return "install the package that has it"


def _install(installer: list[str], cuda: bool, wanted: str | None) -> None:
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    builds = [] if cuda else _cpu_builds(installer, index, wanted)
    torch = choose_torch(builds, wanted, cuda=cuda)
    matched, fbgemm = versions.matched(torch), "fbgemm-gpu" if cuda else "fbgemm-gpu-cpu"
    build = "CPU" if "+cpu" in torch else "CUDA"
    print(f"installing torch {torch} ({build} build), torchrec {matched}, {fbgemm} {matched} into .venv")
    print(f"for Python {platform.python_version()}; {SIZES[build]}", flush=True)
    if build == "CUDA" and not cuda and not index:
        print("no index with a CPU build of torch is set; TORCH_INDEX=URL takes torch from one (0.2 GB)", flush=True)
    _pip(installer, [*index, f"torch=={torch}"])
    # torchrec names the CUDA build of FBGEMM as a dependency, which would overwrite the CPU build: so --no-deps.
    others = ("tensordict", "torchmetrics==1.0.3", "pyre-extensions", "iopath", "setuptools")
    _pip(installer, [f"{fbgemm}=={matched}.*", *others])
    _pip(installer, ["--no-deps", f"torchrec=={matched}.*"])
    _pip(installer, ["--editable", ".[test]"])


def _accelerator() -> str:
    chosen = os.environ.get("ACCELERATOR")
    if chosen not in (None, "", "cuda", "cpu"):
        raise InstallError(f"ACCELERATOR={chosen}: it is cuda or cpu")
    if chosen:
        return chosen
    gpus = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
    return "cuda" if gpus and gpus.returncode == 0 else "cpu"


def _wanted_torch() -> str | None:
    wanted = os.environ.get("TORCH") or None
    if wanted and versions.minor(wanted) not in versions.TORCH:
        raise InstallError(f"TORCH={wanted}: known are {', '.join(versions.TORCH)}")
    return wanted


def choose_torch(cpu_builds: list[str], wanted: str | None, *, cuda: bool) -> str:
    """The torch to install: the newest of those that the tests pass on, but without a GPU rather a CPU build.

    Args:
        cpu_builds: those that an index has, such as "2.13.0+cpu".
        wanted: by the user, such as "2.13" or "2.13.0".
        cuda: that the CUDA build is wanted.

    Returns:
        What stands behind `torch==`.
    """
    if not cuda:
        fitting = [build for build in cpu_builds if versions.minor(build) in versions.TORCH]
        if wanted:
            fitting = [build for build in fitting if build.startswith((f"{wanted}.", f"{wanted}+"))]
        if fitting:
            return max(fitting, key=lambda build: [int(part) for part in build.split("+")[0].split(".")])
    chosen = wanted or versions.TORCH[-1]
    return chosen if chosen.count(".") > 1 else f"{chosen}.*"


def _cpu_builds(installer: list[str], index: list[str], wanted: str | None) -> list[str]:
    """CPU builds of torch in the indexes that the installer uses; none if it cannot list them."""
    if installer[0] != "uv":
        command = [*installer, "index", "versions", "torch", *index]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        if reason(listed.stderr) == UNREACHABLE:
            raise InstallError(UNREACHABLE)
        return re.findall(r"\d[\d.]*\+cpu", listed.stdout)
    requirement = f"torch=={choose_torch([], wanted, cuda=False)}"
    command = ["uv", "pip", "install", "--dry-run", "--no-deps", "--torch-backend", "cpu", requirement]
    tried = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    return re.findall(r"torch==(\S+\+cpu)", tried.stderr)


def _pip(installer: list[str], packages: list[str]) -> None:
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    _run([*installer, "install", *quiet, *packages], f"{packages[-1]} could not be installed")


def _environment() -> dict[str, str]:
    return {**os.environ, "VIRTUAL_ENV": str(ENVIRONMENT)}


def _run(command: list[str], failed: str) -> None:
    """Runs a command whose standard error is shown only if it fails, and of that the line that says why."""
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=_environment(), start_new_session=True
    ) as process:
        try:
            _, said = process.communicate()
        except KeyboardInterrupt:
            # Its children, too: they would go on writing into what is about to be removed.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.communicate(timeout=5)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise InstallError(f"{failed}: {reason(said)}")


def reason(said: str) -> str:
    """Why an installer failed, in one line, from all that it said."""
    if re.search(r"NewConnectionError|NameResolutionError|ConnectTimeout|dns error|error sending request", said):
        return UNREACHABLE
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [re.sub(r"^(ERROR|error): ", "", line) for line in lines if re.match(r"ERROR: |error: |[×╰]", line)]
    return "; ".join(errors) or (lines or ["it said nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main())
