"""The catalog reads plug-ins from source, imports nothing until asked, and offers the nearest names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genward.catalog import plugins as catalog
from genward.errors import BadInput, UnknownName

SOURCE = '''
"""Module text."""
from typing import ClassVar

class Base:
    strength: float = 1.0
    """How much."""

class Demo(Base):
    """Does a demo.

    More text.
    """
    name: ClassVar[str] = "demo"
    needs: ClassVar[frozenset[str]] = frozenset()
    site: str
    during: tuple[float, float] = (0.0, 1.0)
    """Part of
    the loop.

    Second paragraph."""

class Helper:
    """No plug-in."""
    name: str = "helper"
'''


def test_fields_are_read_in_order_with_the_line_under_them() -> None:
    (entry,) = catalog.read_source(SOURCE, "defenses", "m")
    assert (entry.name, entry.summary, entry.class_name) == ("demo", "Does a demo.", "Demo")
    assert [(f.name, f.type, f.default, f.doc) for f in entry.fields] == [
        ("strength", "float", "1.0", "How much."),
        ("site", "str", None, ""),
        ("during", "tuple[float, float]", "(0.0, 1.0)", "Part of the loop."),
    ]


def test_our_benchmark_is_found_and_imported_only_by_find() -> None:
    assert "erasure" in catalog.entries("benchmark")
    assert catalog.find("benchmarks", "erasure").__name__ == "ErasureBenchmark"
    assert ("n", "int", "12", "Rows per cell (concept and variant).") in catalog.fields("benchmark", "erasure")
    assert set(catalog.fields("benchmark", "erasure")) < set(catalog.fields("benchmark", "guards")), (
        "fields are inherited"
    )


def test_hyphens_and_underscores_name_the_same_plug_in() -> None:
    assert catalog.find("benchmark", "m_erasure") is catalog.find("benchmark", "m-erasure")
    assert catalog.entry("defense", "negative-prompt").name == "negative_prompt"
    assert not [e for e in catalog.entries("benchmark") if "_" in e], "users see one name per benchmark"


def test_every_listed_plug_in_can_be_imported_and_says_what_it_is() -> None:
    for room in catalog.ROOMS:
        for name, entry in catalog.entries(room).items():
            cls = catalog.find(room, name)
            assert cls.name == name
            assert entry.summary, f"{room} {name} has no first docstring line"


def test_listing_imports_no_torch() -> None:
    code = "import sys; from genward.catalog import plugins; [plugins.entries(r) for r in plugins.ROOMS]; "
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="erasure"):
        catalog.find("benchmark", "erasur")
    with pytest.raises(UnknownName, match="defenses"):
        catalog.entries("defence")


def test_an_entry_point_is_listed_from_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "outside" / "demo.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert catalog.source_file("outside.demo") == tmp_path / "outside" / "demo.py"
    assert catalog.source_file("outside.nothing") is None

    class Point:
        module, attr, name, dist = "outside.demo", "Demo", "demo", None

    monkeypatch.setattr(catalog.metadata, "entry_points", lambda group: [Point] if group == "genward.attacks" else [])
    assert catalog.entries("attack")["demo"].summary == "Does a demo."
    (tmp_path / "outside" / "__init__.py").write_text("")
    assert catalog.find("attack", "demo").name == "demo"


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", "int", 3),
        ("1e-2", "float", 0.01),
        ("true", "bool", True),
        ("strong", "str", "strong"),
        ("none", "float | None", None),
        ("2", "float | None", 2.0),
        ("0.2/0.8", "tuple[float, float]", (0.2, 0.8)),
        ("0;1", "Window", (0.0, 1.0)),
        ("a;b", "tuple[str, ...]", ("a", "b")),
    ],
)
def test_values_are_read_by_annotation(text: str, annotation: str, value: object) -> None:
    assert catalog.coerce(text, annotation) == value


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(BadInput, match="does not read as int"):
        catalog.coerce("many", "int", "erasure.n")
    with pytest.raises(UnknownName, match="seed"):
        catalog.options("benchmark", "erasure", {"sead": "1"})


def test_defaults_are_shown_as_values_not_as_dataclass_machinery() -> None:
    source = "class A:\n    name: ClassVar[str] = 'a'\n    x: int = field(default=32, metadata={})\n"
    source += "    y: dict = field(default_factory=dict)\n    z: int = field()\n"
    (found,) = catalog.read_source(source, "attacks", "m")
    assert [f.default for f in found.fields] == ["32", "dict()", None]


@pytest.mark.parametrize("name", sorted(catalog.entries("attacks")))
def test_every_attack_says_what_it_may_touch_where_it_starts_and_what_it_costs(name: str) -> None:
    cls = catalog.find("attack", name)
    assert cls.access in ("prompt", "query", "gradient") and isinstance(cls.parents, tuple)
    assert cls().nfe([]) == 0
    assert all(f.doc and f.default is not None for f in catalog.entry("attack", name).fields)
