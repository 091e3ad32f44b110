"""An audit as SARIF for code scanning, and as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genward.core.blocks import Cell, Chip, Column, Row, Section, Table, Text
from genward.errors import StoreError
from genward.report.media import Album
from genward.report.rendering import Renderer, asset, environment

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
SEVERITY = {"note": "note", "changed": "warning", "suspicious": "error"}
"""Level of a finding -> SARIF's level"""
SAID = {
    "weights": "Parameters that differ from the base",
    "tokenizer": "Texts cut into other tokens than by the base",
    "embedding_rows": "Rows of the token embedding that were taught another meaning",
    "text_encoder": "Texts that the text encoder reads as another thing",
    "cross_attention": "Texts that cross-attention's maps read as another thing",
    "denoiser": "Texts for which the denoiser predicts another thing",
}
"""Detector -> what its findings are about"""
VERDICTS = {
    "clean": "Nothing but rounding lies between this checkpoint and its base.",
    "changed": "This checkpoint is not its base; nothing that was tried behaves as a backdoor does.",
    "suspicious": "Texts with a possible trigger are read as another thing. Do not use it before someone has looked.",
}


class _NoSamples:
    """Where an audit's page would read samples from: it shows none."""

    def __getattr__(self, name: str) -> Any:
        raise StoreError(f"the page of an audit has no samples; {name} was asked for")


def sarif(result: Mapping[str, Any], version: str) -> dict[str, Any]:
    """SARIF 2.1.0 of an audit: one rule a detector, one result a finding."""
    rules = [{"id": f"genward/{name}", "shortDescription": {"text": text}} for name, text in SAID.items()]
    results = []
    for found in result["findings"]:
        place = {"artifactLocation": {"uri": str(result["checkpoint"])}}
        results.append(
            {
                "ruleId": f"genward/{found['detector']}",
                "level": SEVERITY[found["level"]],
                "message": {"text": found["text"]},
                "locations": [{"physicalLocation": place, "logicalLocations": [{"name": found["where"]}]}],
                "properties": {k: found[k] for k in ("score", "threshold") if found[k] is not None},
            }
        )
    driver = {"name": "genward", "version": version, "rules": rules}
    about = {k: result[k] for k in ("checkpoint", "base", "verdict", "blind_spots", "seconds")}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results, "properties": about}],
    }


def page(result: Mapping[str, Any]) -> str:
    """The audit as HTML; equal results give equal bytes."""
    env = environment()
    renderer = Renderer(env, Album(_NoSamples()))
    sections = [s for s in (_findings(result), _evidence(result), _asked(result), _blind(result)) if s.blocks]
    return env.get_template("audit.html").render(
        title=f"Audit of {result['checkpoint']}",
        facts=[
            ("Checkpoint", result["checkpoint"]),
            ("Base", result["base"]),
            ("Verdict", result["verdict"]),
            ("Time", f"{result['seconds']:.0f} s"),
        ],
        said=VERDICTS[str(result["verdict"])],
        sections=[(s, renderer.section(s)) for s in sections],
        css=asset("report.css"),
    )


def write_page(result: Mapping[str, Any], path: Path) -> Path:
    """The page as a file, whole or not at all."""
    from genward.core.files import write_file

    write_file(path, page(result))
    return path


def _findings(result: Mapping[str, Any]) -> Section:
    tones = {"suspicious": "bad", "changed": "warn", "note": ""}
    rows = []
    for found in result["findings"]:
        level = str(found["level"])
        score = found["score"]
        cells = (
            Cell(level, level, chip=Chip(level, tones[level])),
            Cell(str(found["where"]), str(found["where"])),
            Cell(score, "-" if score is None else f"{score:.2g}"),
            Cell(str(found["text"]), str(found["text"])),
        )
        rows.append(Row(str(found["detector"]), cells))
    columns = (
        Column("Detector", "text"),
        Column("Level", "text"),
        Column("Where", "text"),
        Column("Score"),
        Column("What", "text"),
    )
    blocks = (
        (Table(columns, tuple(rows), label="Detector", sortable=False),)
        if rows
        else (Text("No detector found anything."),)
    )
    return Section("findings", "Findings", blocks)


def _evidence(result: Mapping[str, Any]) -> Section:
    """What each finding that matters rests on, the highest scores of it."""
    rows = tuple(
        Row(str(f["detector"]), (Cell(str(text), str(text)), Cell(float(value), f"{value:.2g}")))
        for f in result["findings"]
        if f["level"] != "note"
        for text, value in f["evidence"]
    )
    columns = (Column("Detector", "text"), Column("Evidence", "text"), Column("Score"))
    return Section("evidence", "Evidence", (Table(columns, rows, label="Detector", sortable=False),) if rows else ())


def _asked(result: Mapping[str, Any]) -> Section:
    rows = tuple(
        Row(
            d["name"],
            (
                Cell(d["seconds"], f"{d['seconds']:.1f} s"),
                Cell(d["skipped"] or d["cost"], d["skipped"] or d["cost"]),
            ),
        )
        for d in result["detectors"]
    )
    return Section(
        "detectors",
        "What was asked",
        (
            Table(
                (Column("Detector", "text"), Column("Time"), Column("What it took", "text")),
                rows,
                label="Detector",
                sortable=False,
            ),
        ),
    )


def _blind(result: Mapping[str, Any]) -> Section:
    return Section("blind", "What this cannot see", tuple(Text(line) for line in result["blind_spots"]))
