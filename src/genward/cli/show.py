"""``genward show``: one plug-in, concept, recipe or model in full."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from genward.cli import common
from genward.cli.listing import kind_of


def plugin(room: str, name: str) -> dict[str, Any]:
    """Summary and fields of a plug-in, from its source."""
    from genward.catalog import plugins as catalog

    entry = catalog.entry(room, name)
    return {
        "name": entry.name,
        "summary": entry.summary,
        "module": f"{entry.module}.{entry.class_name}",
        "fields": [{"field": f.name, "type": f.type, "default": f.default, "meaning": f.doc} for f in entry.fields],
    }


def concept(name: str) -> dict[str, Any]:
    from genward.core.records import load_concept

    found = load_concept(name)
    return {**asdict(found), "hash": found.hash}


def recipe(name: str) -> dict[str, Any]:
    from genward.run.recipes import read_recipe

    tables = read_recipe(name)
    arms = tables.pop("arm", [])
    return {"name": name, **tables, "arms": arms}


def model(name: str, download: bool, variant: str) -> dict[str, Any]:
    """Identity of a model and the sites that a method may name on it; loads the model."""
    from genward.catalog.opening import open_model

    opened = open_model(name, download=download, variant=variant)
    sites = [
        {"site": s.name, "stream": s.stream, "channels": s.channels, "module": s.path} for s in opened.sites.values()
    ]
    return {"name": name, "hash": opened.spec.hash, "identity": opened.spec.to_json()["fields"], "sites": sites}


def main(
    kind: str = typer.Argument(..., help="defense, attack, judge, benchmark, concept, recipe or model."),
    name: str = typer.Argument(..., help="Its name; see genward list."),
    variant: str = common.Variant,
    download: bool = common.Download,
    as_json: bool = common.Json,
) -> None:
    """Show one of them: its fields with types, defaults and meaning, or all it holds."""
    room = kind_of(kind)
    if room == "models":
        found = model(name, download, variant)
    elif room == "concepts":
        found = concept(name)
    elif room == "recipes":
        found = recipe(name)
    else:
        found = plugin(room, name)
    if as_json:
        common.emit(found)
        return
    for key, value in found.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            common.say(f"\n{key}:")
            common.table(value, list(dict.fromkeys(k for row in value for k in row)))
        elif isinstance(value, list | tuple):
            common.say(f"{key}: {', '.join(map(str, value)) or '-'}")
        elif isinstance(value, dict):
            common.say(f"{key}: {', '.join(f'{k} = {v}' for k, v in value.items())}")
        else:
            common.say(f"{key}: {value}")
