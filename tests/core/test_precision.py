"""bfloat16 where the hardware has it, float32 elsewhere, and a reason for both."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import genward
from genward.core import precision as room
from genward.core.precision import autocast, precision


@pytest.fixture(autouse=True)
def undecided() -> Iterator[None]:
    """Each test decides anew, and leaves nothing decided behind."""
    precision.cache_clear()
    yield
    precision.cache_clear()


@pytest.mark.parametrize(
    ("units", "bf16", "why"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True, "the processor has AMX and AVX-512 BF16"),
        ({"amx_bf16": False, "avx512_bf16": True}, True, "the processor has AVX-512 BF16"),
        ({"amx_bf16": True}, True, "the processor has AMX"),
        ({"avx2": True, "avx512_f": True, "amx_int8": True}, False, "would emulate"),
        ({}, False, "would emulate"),
    ],
)
def test_the_cpu_takes_bfloat16_only_with_units_for_it(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], bf16: bool, why: str
) -> None:
    monkeypatch.setattr(room, "cpu_units", lambda: units)
    found = precision("cpu")
    assert found.bf16 is bf16 and why in found.why
    assert found.name == ("bfloat16" if bf16 else "float32")
    with autocast(torch.device("cpu")):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == (torch.bfloat16 if bf16 else torch.float32)


@pytest.mark.parametrize("native", [True, False])
def test_cuda_is_asked_without_emulation(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "card")
    assert precision("cuda") == (native, f"card {'has' if native else 'lacks'} bfloat16 units")


def test_other_devices_stay_in_float32() -> None:
    assert not precision("mps").bf16 and "mps" in precision("mps").why


def test_this_processor_is_asked_in_both_ways() -> None:
    units = room.cpu_units()
    assert bool(units.get("avx512_bf16")) == torch.cpu._is_avx512_bf16_supported()


def test_nobody_else_autocasts() -> None:
    source = Path(genward.__file__).parent
    calls = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "autocast"
    ]
    assert calls == ["core/precision.py"]
