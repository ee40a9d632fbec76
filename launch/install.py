"""Creates .venv and installs into it; launch/install.sh runs this file with a Python version that has wheels.

If an installation fails, it removes the environment that it has created. If it is killed, the file `installing` stays
in the environment, and the next one creates it again. An environment that existed before is never removed.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dist_rec.core import versions  # noqa: E402

ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin/python"
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BEGUN, DONE = ENVIRONMENT / "installing", ENVIRONMENT / "installed"
BACKEND = "--torch-backend"
OUT_OF_REACH = r"NewConnectionError|NameResolution|ConnectTimeout|SSLError|dns error|error sending|network was disabled"
UNREACHABLE = "the package index cannot be reached; check the network, or set a proxy or another index"


class InstallError(Exception):
    """An error that the user can correct, in one line."""


def main() -> int:
    """Creates or updates the environment; returns the exit code."""
    for number in INTERRUPTIONS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    began, fresh = time.monotonic(), False
    try:
        cuda, wanted = _accelerator() == "cuda", _wanted_torch()
        with _alone():
            try:
                fresh = _prepare_folder()
                _install(_installer(fresh), cuda, wanted)
                BEGUN.unlink(missing_ok=True)
                DONE.touch()
            except BaseException:
                if fresh:
                    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
                raise
    except (InstallError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"installed in {time.monotonic() - began:.0f} s")
    return 0


def _interrupt(*_: object) -> NoReturn:
    for number in INTERRUPTIONS:  # A second signal would interrupt the cleanup.
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One installation at a time. Children inherit the lock: those of a killed installation hold it until they end."""
    if not os.access(ROOT, os.W_OK):
        raise InstallError(f"{ROOT} cannot be written to; copy it to a folder that you can write to")
    with (ROOT / ".venv.lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError("another installation into .venv is running or ending; try again later") from None
        except OSError:
            pass  # A file system without locks.
        yield


def _prepare_folder() -> bool:
    """Checks the environment that exists, if any; returns True if a new one has been started."""
    if ENVIRONMENT.is_symlink() or (ENVIRONMENT.exists() and not ENVIRONMENT.is_dir()):
        raise InstallError(f"{ENVIRONMENT} is a link or a file, not a folder; remove it")
    if not ENVIRONMENT.exists() or BEGUN.exists() or _is_bare():
        return _begin()
    command = [PYTHON, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    try:
        version = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        version = ""
    if version in versions.PYTHON:
        return False
    if not DONE.exists():
        raise InstallError(f"{ENVIRONMENT} has no Python {versions.PYTHON[0]} to {versions.PYTHON[-1]}; remove it")
    return _begin()  # A complete installation of this file, whose Python was removed later.


def _is_bare() -> bool:
    """Whether the environment holds only the files that a failed `python -m venv` leaves."""
    known = {"bin", "include", "lib", "lib64", "pyvenv.cfg", ".gitignore"}
    packages = next(ENVIRONMENT.glob("lib/python*/site-packages/*"), None)
    return packages is None and {path.name for path in ENVIRONMENT.iterdir()} <= known


def _begin() -> bool:
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    ENVIRONMENT.mkdir(exist_ok=True)
    BEGUN.touch()
    return True


def _installer(fresh: bool) -> list[str]:
    """Creates the environment if it is new; returns the command that installs into it."""
    if fresh:
        _run([*_maker(), str(ENVIRONMENT)], "the environment could not be created")
    if next(ENVIRONMENT.glob("lib/python*/site-packages/pip"), None):
        return [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
    if shutil.which("uv"):
        return ["uv", "pip"]
    raise InstallError(f"{ENVIRONMENT} has no pip, and uv is not on the PATH; remove it")


def _maker() -> list[str]:
    """A command of this machine that creates an environment with this Python."""
    # The Python of an activated environment is not used: that environment may be the one to replace.
    python = getattr(sys, "_base_executable", sys.executable)
    if importlib.util.find_spec("ensurepip"):  # Debian has it in a package of its own, and venv needs it.
        return [python, "-m", "venv"]
    if shutil.which("uv"):
        return ["uv", "venv", "--quiet", "--allow-existing", "--python", python]
    if importlib.util.find_spec("virtualenv"):
        return [python, "-m", "virtualenv", "--quiet"]
    if shutil.which("virtualenv"):
        return ["virtualenv", "--quiet", "--python", python]
    raise InstallError(f"{python} has no venv module: {_venv_package()}, or install uv")


def _venv_package() -> str:
    """The command that installs the venv module on this system."""
    python = "python{}.{}".format(*sys.version_info)
    if shutil.which("apt-get"):
        return f"apt-get install {python}-venv"
    if shutil.which("dnf"):
        return f"dnf install {python}"
    if shutil.which("apk"):
        return "apk add python3"
    return "install the package that contains it"


def _install(installer: list[str], cuda: bool, wanted: str | None) -> None:
    index = _torch_index(installer, cuda)
    builds = [] if cuda else _cpu_builds(installer, index, wanted)
    torch = choose_torch(builds, wanted, cuda=cuda)
    matched, fbgemm = versions.matched(torch), "fbgemm-gpu" if cuda else "fbgemm-gpu-cpu"
    print(f"Python {platform.python_version()}: torch {torch}, torchrec {matched}, {fbgemm} {matched} into .venv")
    print(_download(cuda, cpu_build=bool(builds)), flush=True)
    if not builds and BACKEND in index:
        index = []
    _pip(installer, [*index, f"torch=={torch}"])
    # --no-deps: torchrec depends on the CUDA build of FBGEMM, which would overwrite the CPU build.
    others = ("tensordict", "torchmetrics==1.0.3", "pyre-extensions", "iopath", "setuptools>=77,<82")
    _pip(installer, [f"{fbgemm}=={matched}.*", *others])
    _pip(installer, ["--no-deps", f"torchrec=={matched}.*"])
    _pip(installer, ["--editable", ".[test]"])


def _torch_index(installer: list[str], cuda: bool) -> list[str]:
    """Arguments for the index of torch, if it is not that of the other packages."""
    if os.environ.get("TORCH_INDEX"):
        return ["--index-url", os.environ["TORCH_INDEX"]]
    # uv knows an index of CPU builds, which may be unreachable.
    return [BACKEND, "cpu"] if installer[0] == "uv" and not cuda else []


def _download(cuda: bool, cpu_build: bool) -> str:
    """The build of torch, the size of the installation, and the way to choose the other build."""
    if cpu_build:
        return "the CPU build of torch: 0.4 GB to download, 1.6 GB on disk; ACCELERATOR=cuda takes the CUDA build"
    if os.environ.get("TORCH_INDEX"):
        return "the build of torch in the index TORCH_INDEX"  # Without its URL, which may contain a password.
    sizes = "the CUDA build of torch: 3.1 GB to download, 7 GB on disk"
    if cuda:
        return f"{sizes}; ACCELERATOR=cpu takes the CPU build, if an index has it"
    return f"{sizes}; to get a CPU build (0.4 GB), set TORCH_INDEX=URL to an index that has one"


def _accelerator() -> str:
    chosen = os.environ.get("ACCELERATOR")
    if chosen not in (None, "", "cuda", "cpu"):
        raise InstallError(f"ACCELERATOR={chosen}: must be cuda or cpu")
    if chosen:
        return chosen
    try:
        gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if gpus.returncode == 0 else "cpu"


def _wanted_torch() -> str | None:
    wanted = os.environ.get("TORCH") or None
    if wanted and versions.minor(wanted) not in versions.TORCH:
        raise InstallError(f"TORCH={wanted}: must be one of {', '.join(versions.TORCH)}")
    return wanted


def choose_torch(cpu_builds: list[str], wanted: str | None, *, cuda: bool) -> str:
    """The torch to install: the newest tested version; without a GPU a CPU build, if the index has one.

    Args:
        cpu_builds: CPU builds in the index, such as "2.13.0+cpu".
        wanted: version that the user asks for, such as "2.13" or "2.13.0".
        cuda: whether to install the CUDA build.

    Returns:
        The version for `torch==`.
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
    """CPU builds of torch in the indexes of the installer.

    Raises:
        InstallError: if they cannot be reached, or have no torch.
    """
    if installer[0] == "uv":
        requirement = f"torch=={choose_torch([], wanted, cuda=False)}"
        command = ["uv", "pip", "install", "--dry-run", "--no-deps", *index, requirement]
        tried = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
        return re.findall(r"torch==(\S+\+cpu)", tried.stderr)
    command = [*installer, "index", "versions", "torch", *index]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode and (reason(listed.stderr) == UNREACHABLE or "No matching distribution" in listed.stderr):
        of_user = "the index TORCH_INDEX cannot be reached, or has no torch"
        raise InstallError(of_user if os.environ.get("TORCH_INDEX") else UNREACHABLE)
    return re.findall(r"\d[\d.]*\+cpu", listed.stdout)


def _pip(installer: list[str], packages: list[str]) -> None:
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    _run([*installer, "install", *quiet, *packages], f"{packages[-1]} could not be installed")


def _environment() -> dict[str, str]:
    return {**os.environ, "VIRTUAL_ENV": str(ENVIRONMENT)}


def _run(command: list[str], failed: str) -> None:
    """Runs a command; if it fails, raises InstallError with the line of its stderr that gives the reason."""
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=_environment(),
        start_new_session=True,
        close_fds=False,
    ) as process:
        try:
            _, said = process.communicate()
        except KeyboardInterrupt:
            _interrupt_group(process)
            raise
    if process.returncode:
        raise InstallError(f"{failed}: {reason(said)}")


def _interrupt_group(process: subprocess.Popen[str]) -> None:
    """Ends a command and its children, which would go on writing to the folder that is removed next."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def reason(said: str) -> str:
    """The reason of an installer's failure, in one line, from its stderr."""
    if re.search(OUT_OF_REACH, said):
        return UNREACHABLE
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [re.sub(r"^(ERROR|error): ", "", line) for line in lines if re.match(r"ERROR: |error: |[×╰]", line)]
    return "; ".join(errors) or (lines or ["no error message"])[-1]


if __name__ == "__main__":
    sys.exit(main())
