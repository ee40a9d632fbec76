"""Versions that work together. The installer reads this module before anything is installed, so it imports nothing."""

PYTHON = ("3.11", "3.12", "3.13", "3.14")
"""Versions of Python with FBGEMM wheels, all of them for x86-64 and aarch64."""
TORCH = ("2.11", "2.12", "2.13", "2.14")
"""Releases of torch with which the tests pass, the newest last."""


def minor(version: str) -> str:
    """Major and minor number of a version: "2.13.0+cpu" → "2.13"."""
    return ".".join(version.split("+")[0].split(".")[:2])


def matched(torch: str) -> str:
    """The release of torchrec and FBGEMM that is built against this torch: 1.X for torch 2.(X + 5)."""
    return f"1.{int(torch.split('.')[1]) - 5}"
