"""Which package called ``apex`` is installed, found out without importing it. Light: no torch.

NVIDIA Apex is not on PyPI. PyPI's ``apex`` is an unrelated Pyramid toolkit, and a Python-only install of NVIDIA's imports and then fails on first use:
neither a name nor a successful import proves anything. So: the folders of the package, then its compiled extensions. What is left to the caller is
a CUDA device and a comparison with the reference op set.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

FOLDERS = ("multi_tensor_apply", "normalization")  # in every NVIDIA Apex, in no other package of that name
EXTENSIONS = ("amp_C", "fused_layer_norm_cuda")  # multi-tensor optimisers; fused LayerNorm and RMSNorm
BUILD = "build NVIDIA Apex with its extensions (pip install --no-build-isolation, with APEX_CPP_EXT=1 APEX_CUDA_EXT=1, from github.com/NVIDIA/apex)"


@dataclass(frozen=True)
class ApexState:
    """``kind``: "absent", "impostor", "no-extensions" or "built". ``usable`` means that the files are there: a CUDA device is not checked."""

    usable: bool
    kind: str
    reason: str


def detect_apex() -> ApexState:
    """Look at the files of ``apex`` on ``sys.path``; nothing of it is executed."""
    spec = PathFinder.find_spec("apex")
    if spec is None:
        return ApexState(False, "absent", 'NVIDIA Apex is not installed: set ops.use = "auto", or ' + BUILD + ".")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not any(all((folder / name).is_dir() for name in FOLDERS) for folder in folders):
        return ApexState(False, "impostor", _impostor())
    missing = [name for name in EXTENSIONS if PathFinder.find_spec(name) is None]
    if missing:
        reason = f"NVIDIA Apex is installed without its compiled extensions ({', '.join(missing)} missing) and would fail on first use: "
        return ApexState(False, "no-extensions", reason + BUILD + ', or set ops.use = "auto".')
    return ApexState(True, "built", "NVIDIA Apex with " + " and ".join(EXTENSIONS))


def _impostor() -> str:
    try:
        found = metadata.distribution("apex")
    except metadata.PackageNotFoundError:
        return f'the installed `apex` is an unrelated package (it has no {FOLDERS[0]}/). Remove it and build NVIDIA Apex, or set ops.use = "auto".'
    pyramid = any(requirement.lower().startswith("pyramid") for requirement in found.requires or ())
    what = "a Pyramid toolkit" if pyramid else f"it has no {FOLDERS[0]}/"
    return (
        f"the installed `apex` {found.version} is an unrelated package ({what}). Remove it (`pip uninstall apex`) and build NVIDIA Apex, "
        'or set ops.use = "auto".'
    )
