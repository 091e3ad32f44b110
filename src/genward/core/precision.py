"""Which precision trainings compute in: the one place that decides. Importing it loads no torch.

A CPU without bfloat16 units emulates them: 512 training samples did not finish in five minutes there, against 25 s in
float32. So the lab's recipe asks here before it autocasts, and ``genward doctor`` prints the answer with its reason.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

CPU_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
"""What the CPU is asked for -> its name; one of them suffices."""


class Precision(NamedTuple):
    """A decision and its reason."""

    bf16: bool
    """Whether autocast to bfloat16 is on; else float32."""
    why: str

    @property
    def name(self) -> str:
        return "bfloat16" if self.bf16 else "float32"


@cache
def precision(kind: str = "cpu") -> Precision:
    """What trainings compute in on a kind of device (``cpu``, ``cuda``, ``mps``, …), decided once per process.

    bfloat16 needs units of its own: on the CPU AMX or AVX-512 BF16, on CUDA no emulation (compute capability 8.0).
    Other devices stay in float32 because nothing was measured there.
    """
    import torch

    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(native, f"{torch.cuda.get_device_name()} {'has' if native else 'lacks'} bfloat16 units")
    if kind != "cpu":
        return Precision(False, f"bfloat16 was not measured on {kind}")
    found = [name for key, name in CPU_UNITS.items() if cpu_units().get(key)]
    if found:
        return Precision(True, f"the processor has {' and '.join(found)}")
    return Precision(False, f"the processor has neither {' nor '.join(CPU_UNITS.values())} and would emulate bfloat16")


def cpu_units() -> Mapping[str, Any]:
    """The processor's instruction sets that torch can use, by torch's names."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):  # not in the oldest torch that genward takes
        units: Mapping[str, Any] = torch.cpu.get_capabilities()
        return units
    return {
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
    }


DTYPES = ("float32", "float16", "bfloat16")
"""What a model's weights may be cast to."""


SHORT = {"fp32": "float32", "float": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
"""What else dtypes are called, and what they are called here"""
DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Kinds of device that are known by name"""


def dtype_of(name: str) -> torch.dtype:
    """A dtype by name.

    Raises:
        BadInput: one that is called otherwise here. UnknownName: one that is not in ``DTYPES``.
    """
    if name in SHORT:
        raise BadInput(f"dtype {name!r} is called {SHORT[name]} here; write --dtype {SHORT[name]}")
    if name not in DTYPES:
        raise UnknownName("dtype", name, DTYPES)
    import torch

    kind: torch.dtype = getattr(torch, name)
    return kind


def device_of(name: str | None = None) -> torch.device:
    """A device by name, which is on this machine and can be computed on; ``None`` takes CUDA where there is one, else
    the CPU.

    Raises:
        BadInput: no such device here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise BadInput(f"there is no device {name[:40]!r}; write cpu, or cuda for an NVIDIA card (mps on an Apple one)")
    if kind == "cuda" and not torch.cuda.is_available():
        why = "this build of torch is for the CPU alone" if torch.version.cuda is None else "torch finds no NVIDIA card"
        raise BadInput(f"device {name[:40]!r} cannot be used: {why}; write cpu, or leave --device out")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadInput(f"device {name[:40]!r} cannot be used: torch finds no Apple card; write cpu, or leave it out")
    try:
        found = torch.device(name)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=found).sum().item()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        why = " ".join(str(error).split())[:120]
        raise BadInput(f"device {name[:40]!r} cannot be used ({why}); try cpu") from None
    return found


def autocast(where: torch.device | None = None) -> AbstractContextManager[Any]:
    """bfloat16 autocast on a device (the CPU by default) where it pays, else nothing; see ``precision``."""
    import torch

    kind = "cpu" if where is None else where.type
    return torch.autocast(kind, torch.bfloat16) if precision(kind).bf16 else nullcontext()
