"""The import table of docs/architecture.md, read from the source: no import between siblings, none upwards."""

from __future__ import annotations

import ast
from pathlib import Path

import genward

SOURCE = Path(genward.__file__).parent
BASE = {"core", "errors"}
PLUGINS = BASE | {"ops", "models.sites"}
ROOMS = PLUGINS | {
    "sae",
    "metrics",
    "store",
    "models",
    "lab",
    "defenses",
    "attacks",
    "judges",
    "benchmarks",
    "sections",
    "audits",
    "speech",
}
MAY: dict[str, set[str]] = (
    {
        "core": {"errors"},
        "errors": set(),
        "sae": BASE | {"ops"},
        "speech": BASE | {"ops"},
        "catalog": ROOMS,
        "run": ROOMS | {"catalog"},
        "serve": ROOMS | {"catalog"},
        "recipe": ROOMS | {"catalog", "run"},
        "report": BASE | {"sections"},
        "testing": BASE | {"ops", "models", "catalog", "run", "serve"},
        "cli": BASE | {"catalog", "run", "serve", "recipe", "report"},
        "__main__": {"cli"},
        "_moved": set(),
    }
    | {room: BASE for room in ("ops", "metrics", "store", "models", "lab", "sections")}
    | {"audits": PLUGINS}
    | {room: PLUGINS | {"speech"} for room in ("attacks", "judges")}
    | {"defenses": PLUGINS | {"sae", "speech"}}
    # a benchmark owns its figures and its part of the report: metrics computes the ones, sections shape the other
    | {"benchmarks": PLUGINS | {"metrics", "sections", "speech"}}
)


def imports(path: Path) -> list[str]:
    """Modules of ours that a file imports anywhere, function bodies and type-checking blocks included, as dotted names
    below genward."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room; name it in full"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.removeprefix("genward.") for name in found if name.startswith("genward.")]


def allowed(room: str, name: str) -> bool:
    return any(name == ok or name.startswith(ok + ".") for ok in MAY[room] | {room, "__version__"})


def test_nobody_imports_upwards_or_sideways() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room != "__init__":
            wrong += [f"{path.relative_to(SOURCE)} imports {name}" for name in imports(path) if not allowed(room, name)]
    assert not wrong, "\n".join(wrong)


def test_core_and_errors_import_no_torch_at_import_time() -> None:
    for path in [SOURCE / "errors.py", *sorted((SOURCE / "core").glob("*.py"))]:
        top = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert "torch" not in {a.name.split(".")[0] for n in top for a in n.names} | {
            (getattr(n, "module", None) or "").split(".")[0] for n in top
        }


def test_every_room_is_in_the_table() -> None:
    rooms = {p.parent.relative_to(SOURCE).parts[0] for p in SOURCE.glob("*/__init__.py")}
    assert rooms <= set(MAY), f"no line in the table for {sorted(rooms - set(MAY))}"
