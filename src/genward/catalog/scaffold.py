"""A new package with a defense of one's own: the method, its test, and the entry point through which genward finds
it."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from genward import __version__
from genward.catalog import plugins
from genward.core.files import write_files
from genward.errors import BadInput

NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{dashed}"
version = "0.1.0"
description = "The defense {name} for genward"
requires-python = ">=3.11"
dependencies = ["genward>={version}"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."genward.defenses"]
{name} = "{package}.{name}:{title}"

[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]
"""

METHOD = '''"""{title}: what it does in one line; the paper and its number belong here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from genward.core import Concept, Rig
from genward.errors import BadInput


@dataclass(frozen=True)
class {title}:
    """One line that `genward list` shows: scales the output of one cross-attention block."""

    name: ClassVar[str] = "{name}"
    """What the command line calls it"""
    at_attach: ClassVar[frozenset[str]] = frozenset({{"strength"}})
    """Fields that act on attaching: another value needs no new fit"""
    site: str = "mid_block.attentions.0.tb.0.attn2"
    """Where to act; `genward show model lab` lists the sites."""
    strength: float = 0.5
    """0 leaves the model alone bit for bit, 1 silences the block."""
    concept: str = ""
    """Name of the concept that it was made for, for the record."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise BadInput(f"{name}: strength {{self.strength}}; give a number from 0 to 1")

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """Made for a concept (`{name}:weapons`). A method that learns has `fit` and a field `artifact` in its place:
        docs/defenses.md, section Learning."""
        return cls(**{{"concept": concept.name, **fields}})

    def attach(self, rig: Rig) -> None:
        """Ports: `rig.tap(site)`, `inputs`, `guidance`, `latents`, `weights`, `prompts`, `readings`, `images`. What a
        port returns takes the place of what it was given; `rig.note` keeps a score, `rig.block` ends rows."""
        if self.strength > 0:
            rig.tap(self.site, lambda hidden, frame: hidden * (1 - self.strength))
'''

TEST = '''"""{title} keeps genward's laws, and does what it says."""

from __future__ import annotations

import pytest
import torch

from genward.catalog.fitting import parse_defense, ready
from genward.core import Case, Sampler
from genward.errors import BadInput
from genward.testing import defense_laws, parity_laws, tiny_sd
from {package}.{name} import {title}


def test_laws() -> None:
    """No hook is left, zero strength changes nothing, a crash releases nothing, and the default changes something."""
    defense_laws(tiny_sd(), {title}, zero={{"strength": 0.0}})


def test_parity() -> None:
    """`generate` and `protect` give the same pictures and verdicts."""
    parity_laws(tiny_sd(), [{title}(strength=0.5)])


def test_it_is_found_and_changes_the_picture() -> None:
    model, cases, sampler = tiny_sd(), [Case("a", "a cat", seed=1)], Sampler(steps=2)
    (mine,) = ready(parse_defense("{name}:weapons,strength=1"), model).defenses
    assert mine == {title}(strength=1, concept="weapons")
    plain, changed = (model.generate(cases, sampler, d, keep_latents=True)[0].latents for d in ((), [mine]))
    assert not torch.equal(plain, changed)


def test_a_strength_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="0 to 1"):
        {title}(strength=2)
'''

README = """# {dashed}

The defense `{name}` for [genward](https://pypi.org/project/genward/).

```
pip install -e '.[test]'
python -m pytest
genward show defense {name}
genward generate "a bomb in noto style" --defense none --defense {name}:weapons --out grid.png
genward run erasure --preset quick --defense {name}:{{concept}}
```
"""


def new_defense(name: str, folder: Path) -> list[Path]:
    """Write a package with a defense that runs as it is.

    Args:
        name: of the defense, in lower case (``my_method``). folder: to write into; it must be empty or new.

    Raises:
        BadInput: a name that cannot be one or is taken, or a folder that holds something.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise BadInput(f"defense {name[:60]!r}: give a name of small letters, digits and underscores, as my_method")
    if name in plugins.entries("defense"):
        raise BadInput(f"there is a defense {name!r} already (genward show defense {name}); give yours another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is not empty; name a new folder with --out")
    title = "".join(part.capitalize() for part in name.split("_"))
    package = f"genward_{name}"
    words = {
        "name": name,
        "title": title,
        "package": package,
        "dashed": f"genward-{name.replace('_', '-')}",
        "version": __version__,
    }
    texts = {
        folder / "pyproject.toml": PROJECT,
        folder / "README.md": README,
        folder / "src" / package / "__init__.py": '"""The defense {name} for genward."""\n',
        folder / "src" / package / f"{name}.py": METHOD,
        folder / "tests" / f"test_{name}.py": TEST,
    }
    write_files({path: text.format(**words).encode() for path, text in texts.items()})
    return list(texts)
