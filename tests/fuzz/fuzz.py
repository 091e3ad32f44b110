"""Hostile inputs at a fixed seed: whatever comes in, the answer is a result or one of genward's own errors, in time.

    python tests/fuzz/fuzz.py 100000 --seed 0

prints how many inputs each reader was given, and ends with 1 if one of them let another exception out or took longer
than ``SECONDS``. Input ``k`` of a seed is the same in every run: ``1 --first K`` repeats it. ``--only NAME`` gives all
of them to one reader.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as tensors_to_bytes

from genward.catalog import fitting
from genward.catalog import plugins as catalog
from genward.cli.app import status
from genward.core.prompts_csv import CsvPrompts, read_rows
from genward.core.reading import lines, parse_json, printable
from genward.core.records import Case, Inputs, Sampler, concept_names, load_concept, row_seed
from genward.core.spec import Spec, digest
from genward.core.texts import checked_negatives, checked_prompts, read_prompts
from genward.core.weights import problem
from genward.errors import GenwardError
from genward.models.identity import read_folder
from genward.ops import artifacts
from genward.run.plan import from_tables, from_toml, to_toml
from genward.run.recipes import read_recipe
from genward.serve.policy import dump_policy, load_policy, parse_policy
from genward.testing import tiny_pipeline

SECONDS = 10.0
"""Longest time that one input may take."""

TEXTS = (
    "",
    " ",
    "a cat",
    "\x00",
    "\ud800",
    "a\udcffb",
    "\x1b[31mred\x9b",
    "\u202eabc",
    "\u2028",
    "\ufeff",
    "é" * 50,
    "猫🐱",
    "x" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    ".",
    "/",
    "~",
    "-",
    "--",
    "=",
    ",",
    ":",
    "+",
    "none",
    "nan",
    "inf",
    "-1",
    "1e999",
    "9" * 23,
    "9" * 5000,
    "0x10",
    "1_000",
    "²",
    "true",
    "None",
    "a=b",
    "{concept}",
    "{",
    "%s%n",
    "'",
    '"',
    "\\",
    "\n",
    "\r\n",
    "[" * 500,
    "weapons",
    "lab",
    "uce:weapons",
)
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**22, 10**400, 10**5000)
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.5, 1e-320, 1e308, math.nan, math.inf, -math.inf)


class Slow(Exception):
    """An input took longer than ``SECONDS``."""


class Outcome(NamedTuple):
    """What became of the inputs."""

    counts: Counter[str]
    """Reader -> inputs"""
    refused: Counter[str]
    """Reader -> those that ended in one of genward's errors"""
    uncaught: list[str]
    """Reader, number of the input, and traceback of whatever else came out"""
    hung: list[str]


# --------------------------------------------------------------------------------------------------------------- inputs


def text(draw: random.Random) -> str:
    """A text that somebody may type, or that comes out of a broken file."""
    kind = draw.random()
    if kind < 0.6:
        return draw.choice(TEXTS)
    if kind < 0.8:
        return draw.choice(TEXTS)[:200] + draw.choice(TEXTS)[:200]
    return "".join(
        chr(draw.choice((draw.randrange(128), draw.randrange(0x3000), draw.randrange(0x110000))))
        for _ in range(draw.randrange(12))
    )


def value(draw: random.Random, depth: int = 0) -> Any:
    """A value of any type."""
    kind = draw.randrange(12 if depth < 3 else 7)
    if kind < 3:
        return text(draw)
    if kind < 5:
        return draw.choice(NUMBERS)
    if kind == 5:
        return draw.choice(FLOATS)
    if kind == 6:
        return draw.choice((None, True, False, b"bytes", 1j, object(), torch.ones(2), range(3)))
    if kind == 7:
        return deep(draw.choice((10, 2000)))
    if kind < 10:
        made = [value(draw, depth + 1) for _ in range(draw.randrange(4))]
        return made if kind == 8 else tuple(made)
    return {draw.choice((text(draw), "name", "label", 5)): value(draw, depth + 1) for _ in range(draw.randrange(4))}


def deep(levels: int) -> Any:
    """Lists in lists."""
    made: Any = []
    for _ in range(levels):
        made = [made]
    return made


def damaged(draw: random.Random, data: bytes) -> bytes:
    """A file's bytes after an accident: bits flipped, parts lost, repeated, replaced, another encoding."""
    held = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at, kind = draw.randrange(len(held) + 1), draw.randrange(8)
        if kind < 2 and held:
            held[at % len(held)] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del held[at : at + draw.choice((1, 5, 100, 10**9))]
        elif kind == 3:
            held[at:at] = text(draw).encode("utf-8", "surrogatepass")
        elif kind == 4:
            held[at:at] = held[max(0, at - draw.randrange(1, 80)) : at] * draw.choice((1, 2, 30))
        elif kind == 5:
            held[at:at] = draw.choice(
                (b"\x00", b"\xff", b"\xe9", b"[" * 9000, b"{" * 300, b'"', b"\r", b"\xc2\x85", b"NaN")
            )
        elif kind == 6:
            end = at + draw.randrange(1, 12)
            held[at:end] = repr(draw.choice((*FLOATS, True, *NUMBERS[:11]))).encode()
        else:
            return recoded(draw, bytes(held))
    return bytes(held)


def recoded(draw: random.Random, data: bytes) -> bytes:
    """The text in another encoding, with another line end, or something else altogether."""
    kind, plain = draw.randrange(6), data.decode("utf-8", "replace")
    if kind < 2:
        return plain.encode(
            draw.choice(("utf-16", "utf-8-sig", "utf-32", "cp1252", "utf-16-le", "shift-jis")), "replace"
        )
    if kind == 2:
        return plain.replace("\n", draw.choice(("\r", "\r\n", "\u2028", "\x0b", ""))).encode()
    if kind == 3:
        return draw.randbytes(draw.randrange(300))
    if kind == 4:
        return (draw.choice(("[", '{"a":', "a = [", "(", '"')) * draw.choice((500, 100_000))).encode()
    return b""


# -------------------------------------------------------------------------------------------------------------- readers


class Readers:
    """One method a reader; each makes an input of its own and hands it over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = (
            "prompt,label,category,seed,group,family\n"
            + '"a red, ""big"" fox",safe,a|b,7,g1,x\na barn,unsafe,,,,\n' * 3
        ).encode()
        self.toml = {name: _toml(load_concept(name)) for name in concept_names()[:4]}
        self.policy = (
            b'name = "house"\n[categories.weapons]\naction = "block"\nthresholds = { aeiou = 1.7 }\n[categories.rude]\n'
        )
        self.recipe = to_toml(from_tables(read_recipe("erasure-quick"), "x")).encode()
        self.list = "a cat\na dog\n\nein Bär\n".encode()
        pipe = tiny_pipeline()
        pipe.save_pretrained(folder / "model")
        self.model = folder / "model"
        self.files = [p for p in sorted(self.model.rglob("*.json")) if p.name in ("model_index.json",)]
        card = {
            "method": "uce",
            "settings": {"lam": 0.1},
            "seconds": 1.0,
            "captions": ["a cat"],
            "seeds": [1],
            "model_hash": "x",
        }
        artifacts.save(folder / "fit", {"a": torch.ones(2, 3), "b": torch.zeros(4)}, card)
        self.fit = ((folder / "fit.safetensors").read_bytes(), (folder / "fit.json").read_bytes())
        self.plugins = [
            (kind, e) for kind in ("defense", "attack", "judge", "benchmark") for e in catalog.entries(kind).values()
        ]

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def prompts(self, draw: random.Random) -> None:
        path = self.put(
            draw.choice(("p.csv", "p.csv", "p.txt")), damaged(draw, self.table if draw.random() < 0.8 else self.list)
        )
        for row in read_rows(path) if path.suffix == ".csv" else ():
            assert row.prompt
        assert all(read_prompts(path))

    def csv_settings(self, draw: random.Random) -> None:
        names = ("path", "concept", "harm", "unlabeled", "categories", "limit", "repeats", "seed", "variant", "cut")
        given = {draw.choice(names): value(draw) for _ in range(draw.randrange(3))}
        path = self.put("p.csv", self.table)
        cases = CsvPrompts.of(f"{path}," + ",".join(f"{k}={draw.choice(TEXTS)[:50]}" for k in given)).cases()
        for case in cases:
            case.checked()

    def concept(self, draw: random.Random) -> None:
        found = load_concept(self.put("c.toml", damaged(draw, draw.choice(list(self.toml.values())).encode())))
        assert found.phrases and all(isinstance(p, str) and p.strip() for p in found.phrases) and found.hash

    def policy_file(self, draw: random.Random) -> None:
        found = load_policy(self.put("p.toml", damaged(draw, self.policy)), known=("aeiou", "wukong"))
        assert parse_policy(dump_policy(found), known=("aeiou", "wukong")) == found

    def recipe_file(self, draw: random.Random) -> None:
        plan = from_tables(read_recipe(self.put("r.toml", damaged(draw, self.recipe))), "x")
        assert from_toml(to_toml(plan)).hash == plan.hash

    def json_text(self, draw: random.Random) -> None:
        made = parse_json(damaged(draw, self.fit[1]).decode("utf-8", "surrogateescape"), "card")
        json.dumps(made, allow_nan=False, ensure_ascii=False).encode()

    def artifact(self, draw: random.Random) -> None:
        which = draw.randrange(2)
        data = [damaged(draw, part) if k == which else part for k, part in enumerate(self.fit)]
        path = self.put("f.safetensors", data[0])
        self.put("f.json", data[1])
        problem(path)
        found = artifacts.load(path)
        assert all(bool(torch.isfinite(t).all()) for t in found.tensors.values())

    def tensors(self, draw: random.Random) -> None:
        kinds = [torch.float8_e4m3fn, torch.float16, torch.int64, torch.bool, torch.float64, torch.complex64]
        held = {
            text(draw).encode("utf-8", "replace").decode() or "x": torch.ones(draw.randrange(3)).to(draw.choice(kinds))
            for _ in range(2)
        }
        card = {draw.choice(("method", "hash", "settings", "x", "seconds")): value(draw)}
        with contextlib.suppress(GenwardError):
            artifacts.save(self.folder / "made", held, card)
            artifacts.load(self.folder / "made")
        self.put("f.safetensors", tensors_to_bytes(held))
        self.put("f.json", self.fit[1])
        artifacts.load(self.folder / "f")

    def model_folder(self, draw: random.Random) -> None:
        path = draw.choice([*self.files, *self.model.rglob("*.safetensors")])
        good = path.read_bytes()
        try:
            path.write_bytes(damaged(draw, good[: 1 << 14] if path.suffix == ".json" else good))
            read_folder(self.model, draw.choice(("", "", "fp16", text(draw))))
        finally:
            path.write_bytes(good)

    def texts(self, draw: random.Random) -> None:
        given = draw.choice((text(draw), value(draw), [text(draw) for _ in range(3)]))
        found = checked_prompts(given)
        checked_negatives(value(draw), len(found))

    def case(self, draw: random.Random) -> None:
        fields = {draw.choice(Case._fields): value(draw) for _ in range(draw.randrange(1, 4))}
        case = Case(**{"id": "a", "prompt": "a cat", **fields}).checked()
        row_seed(case.id, case.prompt)
        digest(case.named())

    def values(self, draw: random.Random) -> None:
        kind = draw.randrange(4)
        if kind == 0:
            Sampler(**{draw.choice(("steps", "guidance", "height", "width", "eta")): value(draw)})
        elif kind == 1:
            digest(value(draw))
        elif kind == 2:
            assert Spec.from_json(
                draw.choice((value(draw), {"kind": value(draw), "name": "x", "fields": value(draw)}))
            ).hash
        else:
            Inputs(value(draw))

    def plain_text(self, draw: random.Random) -> None:
        given = text(draw)
        assert not set(printable(given)) & set("\x1b\x9b\r\x07\u202e\ud800")
        assert "".join(lines(given)) == "".join(c for c in given if c not in "\n\r\v\f\x85\u2028\u2029")

    def plugin_text(self, draw: random.Random) -> None:
        kind, entry = draw.choice(self.plugins)
        fields = [f.name for f in entry.fields]
        options = [f"{draw.choice([*fields, 'x'])}={draw.choice(TEXTS)[:300]}" for _ in range(draw.randrange(3))]
        if kind == "defense":
            concept = draw.choice(("", ":weapons", f":{draw.choice(TEXTS)[:50]}"))
            for request in fitting.parse_defense(",".join([entry.name + concept, *options])):
                fitting.template(request) if request.name else None
        elif kind != "judge":  # opening a judge loads its weights
            catalog.made(kind, ",".join([entry.name, *options]))

    def command(self, draw: random.Random) -> None:
        line = draw.choice(COMMANDS)
        arguments = [text(draw) if part == "?" else part for part in line]
        if draw.random() < 0.3:
            arguments.insert(draw.randrange(len(arguments) + 1), text(draw))
        arguments = [a for a in arguments if a != "--" and not a.startswith(("-h", "--help"))]  # "--" hides --model
        with contextlib.chdir(self.folder / "cwd"):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = status(arguments)
        assert code in (0, 1, 2, 3), (arguments, code)
        assert code == 0 or err.getvalue().strip(), (arguments, code)
        assert not set(out.getvalue() + err.getvalue()) & set("\x1b\x9b\x07\u202e"), arguments
        out.getvalue().encode()


COMMANDS = [
    ["show", "?", "?"],
    ["show", "concept", "?"],
    ["show", "defense", "?"],
    ["show", "recipe", "?", "--json"],
    ["list", "?"],
    ["claims", "?"],
    ["check", "--store", "?"],
    ["report", "?", "--store", "?"],
    ["judge", "?", "--store", "?"],
    ["run", "?", "?"],
    ["run", "erasure", "--preset", "?", "--dry-run"],
    ["run", "erasure", "--preset", "quick", "--concept", "?", "--dry-run"],
    ["run", "erasure", "--defense", "?", "--preset", "quick", "--dry-run"],
    ["guard", "?", "--policy", "?", "--defense", "none", "--model", "none/none"],
    ["guard", "a cat", "--defense", "?", "--model", "none/none"],
    ["guard", "a cat", "--defense", "none", "--seed", "?", "--model", "none/none"],
    ["generate", "?", "--model", "?x/none"],
    ["generate", "a cat", "--dtype", "?", "--model", "none/none"],
    ["generate", "a cat", "--device", "?", "--model", "none/none"],
    ["generate", "a cat", "--out", "?", "--steps", "?", "--model", "none/none"],
    ["generate", "a cat", "--variant", "?", "--defense", "?", "--model", "none/none"],
    ["fit", "?", "--out", "?", "--model", "none/none"],
    ["export", "?", "--defense", "?", "--model", "none/none"],
    ["calibrate", "?", "--benign", "?", "--out", "?", "--model", "none/none"],
    ["dataset", "show", "?"],
    ["dataset", "fit", "?", "--out", "?", "--model", "none/none"],
    ["?"],
]
WEIGHTS = {
    "prompts": 20,
    "csv_settings": 3,
    "concept": 12,
    "policy_file": 12,
    "recipe_file": 8,
    "json_text": 10,
    "artifact": 10,
    "tensors": 3,
    "model_folder": 5,
    "texts": 12,
    "case": 12,
    "values": 12,
    "plain_text": 12,
    "plugin_text": 1,
    "command": 1,
}
"""Reader -> its share of the inputs; those that take long get fewer."""


def _toml(concept: Any) -> str:
    fields = ("targets", "phrases", "heldout", "anchors", "neighbors", "keep")
    head = "".join(
        f"{k} = {json.dumps(getattr(concept, k), ensure_ascii=False)}\n" for k in ("name", "kind", "summary", "anchor")
    )
    rest = "".join(f"{k} = {json.dumps(list(getattr(concept, k)), ensure_ascii=False)}\n" for k in fields)
    return f"{head}{rest}judge = {{ labels = {json.dumps(list(concept.judge), ensure_ascii=False)} }}\n"


# ------------------------------------------------------------------------------------------------------------------ run


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """``Slow`` inside the block after so many seconds."""

    def stop(*_: object) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(
    count: int, seed: int = 0, only: str = "", first: int = 0, say: Callable[[str], None] | None = None
) -> Outcome:
    """Give ``count`` inputs to the readers, from the ``first`` one on."""
    found = Outcome(Counter(), Counter(), [], [])
    names, shares = list(WEIGHTS), list(WEIGHTS.values())
    with tempfile.TemporaryDirectory() as folder:
        readers = Readers(Path(folder))
        (Path(folder) / "cwd").mkdir()
        for k in range(first, first + count):
            draw = random.Random(f"{seed}|{k}")
            name = draw.choices(names, shares)[0]
            name = only or name
            found.counts[name] += 1
            try:
                with limited(SECONDS):
                    getattr(readers, name)(draw)
            except GenwardError as error:
                found.refused[name] += 1
                told = str(error)
                if not told or len(told) > 4000:
                    found.uncaught.append(f"{name} {k}: a message of {len(told)} characters: {told[:200]!r}")
            except Slow:
                found.hung.append(f"{name} {k}: {traceback.format_exc(limit=-3)}")
            except BaseException as error:  # noqa: BLE001 - that is what is looked for
                if isinstance(error, KeyboardInterrupt):
                    raise
                found.uncaught.append(f"{name} {k}: {''.join(traceback.format_exception(error, limit=-4))}")
            if say and (k - first + 1) % 5000 == 0:
                say(f"{k - first + 1}/{count}, {len(found.uncaught)} uncaught, {len(found.hung)} hung")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=["", *WEIGHTS])
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    found = fuzz(given.count, given.seed, given.only, given.first, lambda line: print(line, file=sys.stderr))
    for line in [*found.uncaught[:40], *found.hung[:10]]:
        print(line)
    for name, count in sorted(found.counts.items()):
        print(f"{name:<14} {count:>8,} inputs, {found.refused[name]:>8,} refused")
    print(
        f"{sum(found.counts.values()):,} inputs at seed {given.seed}: {len(found.uncaught)} uncaught, "
        f"{len(found.hung)} hangs, {time.monotonic() - began:.0f} s"
    )
    return 1 if found.uncaught or found.hung else 0


if __name__ == "__main__":
    sys.exit(main())
