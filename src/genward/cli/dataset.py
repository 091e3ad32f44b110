"""``genward dataset``: data to fit early detectors on (prompts × seeds, labels of the pictures, early features), and
detectors fitted on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genward.cli import common
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.catalog.gates import Gate

app = typer.Typer(
    no_args_is_help=True, help="Data for early detectors: prompts × seeds, labels of this very picture, early features."
)


def read_rows(file: Path) -> list[str | tuple[str, str]]:
    """Prompts from a text file (one a line) or a CSV with a column ``prompt`` and, if it likes, ``family``.

    Raises:
        BadInput: it cannot be read or holds no prompt.
    """
    from genward.core.tables import read_table
    from genward.core.texts import read_prompts

    if file.suffix.lower() != ".csv":
        return list(read_prompts(file))
    found: list[str | tuple[str, str]] = []
    for row in read_table(file, ("prompt", "family"), ("prompt",), "file of prompts").rows:
        if not row.cells["prompt"].strip():
            raise BadInput(f"{file}, {row.place}: empty prompt; write a text or take the row out")
        found.append((row.cells["prompt"], row.cells.get("family", "")))
    return found


def listed(names: str) -> tuple[str, ...]:
    """``"a,b"`` -> ``("a", "b")``."""
    return tuple(n.strip() for n in names.split(",") if n.strip())


def shares(text: str) -> tuple[float, ...]:
    """``"0,0.1"`` -> ``(0.0, 0.1)``."""
    try:
        return tuple(float(s) for s in listed(text))
    except ValueError:
        raise BadInput(f"--at {text!r}: give numbers, as in 0,0.1,0.2") from None


@app.callback()
def root() -> None:
    """Data for early detectors."""


Out = typer.Option(..., "--out", "-o", help="Folder to write; a stopped build goes on in it.")
Concept = typer.Option([], "--concept", "-c", help="Concepts or concept files: their captions and labels.")
Prompts = typer.Option(None, "--prompts", help="Own prompts: a text file, one a line, or a CSV (prompt, family).")
Label = typer.Option("", "--label", help="Judge's labels, comma-separated; by default the concepts' own.")
Images = typer.Option(960, "--images", "-n", help="Pictures, of concepts' captions.")
Seeds = typer.Option(4, "--seeds", help="Pictures a prompt.")
Judge = typer.Option(
    ["lab"],
    "--judge",
    "-j",
    help="Judge, with its fields if need be; may be repeated: where judges differ, a label is unknown.",
)
Sites = typer.Option("", "--sites", help="Sites to read, comma-separated (genward show model lab).")
Parts = typer.Option("text", "--parts", help="text, latents, noise: read beside the sites.")
Steps = typer.Option("0,0.1,0.2,0.4,0.99", "--at", help="Steps to read: shares of the loop below 1, or 0-based steps.")
SamplingSteps = typer.Option(20, "--steps", help="Sampling steps.")
Guidance = typer.Option(4.0, "--guidance", help="Guidance scale.")
Pool = typer.Option(8, "--pool", help="Edge of the grid that features are averaged to; 0 for none.")
TestFamilies = typer.Option(
    "", "--test-families", help="Wordings or families kept for the test alone, comma-separated."
)
Seed = typer.Option(0, "--seed", help="Of captions, noise and splits.")
Batch = typer.Option(32, "--batch", help="Pictures at a time.")
Pairs = typer.Option(
    False, "--counterfactual", help="Aligned pairs, with the concept and without it, in place of labeled pictures."
)
Shared = typer.Option(0.1, "--shared", help="Of pairs: share of the steps that both go under the safe caption.")
Align = typer.Option(0.05, "--align", help="Of pairs: difference, 0 to 1, that the rest of the picture may have.")


@app.command("build")
def build(
    out: Path = Out,
    concept: list[str] = Concept,
    prompts: Path | None = Prompts,
    label: str = Label,
    images: int = Images,
    seeds: int = Seeds,
    judge: list[str] = Judge,
    sites: str = Sites,
    parts: str = Parts,
    steps: str = Steps,
    sampling_steps: int = SamplingSteps,
    guidance: float = Guidance,
    pool: int = Pool,
    test_families: str = TestFamilies,
    seed: int = Seed,
    batch: int = Batch,
    counterfactual: bool = Pairs,
    shared: float = Shared,
    align: float = Align,
    model: str = common.ModelName,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    as_json: bool = common.Json,
) -> None:
    """Build a dataset: generate each prompt with several seeds, label the pictures, keep early features. No picture is
    stored. With --counterfactual: aligned pairs of latents with the concept and without it."""
    opened = partial(_opened, model, device, dtype, download, variant)
    sampling = (sampling_steps, guidance)
    if counterfactual:
        if prompts is not None or label or sites or test_families:
            raise BadInput("--counterfactual makes its own pairs; --prompts, --label, --sites and --test-families go")
        made = {"pairs": max(1, images // 2), "shared": shared, "tau": align, "seed": seed}
        _pairs(opened, model, out, concept, judge, sampling, made, batch, as_json)
        return
    reading: dict[str, Any] = {
        "parts": listed(parts),
        "steps": shares(steps),
        "pool": pool,
        "test_wordings": listed(test_families),
    }
    reading |= {"seed": seed} | ({"sites": listed(sites)} if sites else {})
    _labelled(opened, model, out, concept, prompts, label, judge, sampling, reading, (images, seeds, batch), as_json)


def _labelled(
    opened: Callable[[], Any],
    model: str,
    out: Path,
    concept: Sequence[str],
    prompts: Path | None,
    label: str,
    judge: Sequence[str],
    sampling: tuple[int, float],
    reading: dict[str, Any],
    sizes: tuple[int, int, int],
    as_json: bool,
) -> None:
    """``dataset build`` of labeled pictures."""
    if not concept and prompts is None:
        raise BadInput("nothing to build from; give --concept weapons, or --prompts FILE with --label")
    from genward.core.records import Sampler, load_concept

    concepts = [load_concept(c) for c in concept]
    labels = listed(label) or tuple(dict.fromkeys(x for c in concepts for x in c.judge))
    if not labels:
        raise BadInput("no label to judge by; name them with --label (genward list judges)")
    written = read_rows(prompts) if prompts is not None else []

    from genward.catalog import dataset
    from genward.catalog.judges import open_judge
    from genward.catalog.opening import words_of

    (images, seeds, batch), seed = sizes, reading["seed"]
    judges = [open_judge(j) for j in judge]
    cases = dataset.concept_cases(concepts, words_of(model), images, seeds, seed) if concepts else []
    cases += dataset.prompt_cases(written, seeds, seed)
    recipe = dataset.Recipe(labels, sampler=Sampler(*sampling), **reading)
    with common.progress("pictures", as_json) as update:
        card = dataset.build(opened(), cases, judges, recipe, out, concepts=concepts, batch=batch, progress=update)
    show(card, as_json)


def _opened(model: str, device: str | None, dtype: str | None, download: bool, variant: str) -> Any:
    from genward.catalog.opening import open_model

    return open_model(model, device, dtype, download=download, variant=variant)


def _pairs(
    opened: Callable[[], Any],
    model: str,
    out: Path,
    concept: Sequence[str],
    judge: Sequence[str],
    sampling: tuple[int, float],
    settings: dict[str, Any],
    batch: int,
    as_json: bool,
) -> None:
    """``dataset build --counterfactual``."""
    if not concept or len(judge) != 1:
        raise BadInput("--counterfactual wants --concept weapons, say, and one judge")
    from genward.core.records import Sampler, load_concept

    concepts = [load_concept(c) for c in concept]
    from genward.catalog import counterfactual
    from genward.catalog.judges import open_judge
    from genward.catalog.opening import words_of

    recipe = counterfactual.PairRecipe(sampler=Sampler(*sampling), **settings)
    told = open_judge(judge[0])
    with common.progress("pictures", as_json) as update:
        card = counterfactual.build(
            opened(), concepts, words_of(model), told, out, recipe, batch=batch, progress=update
        )
    if as_json:
        common.emit(card)
        return
    rows = [{"pairs": "accepted", "n": card["accepted"]}]
    rows += [{"pairs": f"rejected: {why}", "n": n} for why, n in card["rejected"].items()]
    common.table(rows, ("pairs", "n"))


FitFolder = typer.Argument(..., help="Folder of a dataset.")
FitOut = typer.Option(
    ..., "--out", "-o", help="File to write, as in fitted/wukong.safetensors; its card goes beside it."
)
FitMethod = typer.Option("wukong", "--method", help="The detector; fields after commas, as in wukong,epochs=40.")
FitConcept = typer.Option(
    [], "--concept", "-c", help="Concepts or concept files; by default those that the dataset was built for."
)


@app.command("fit")
def fit(
    folder: Path = FitFolder,
    out: Path = FitOut,
    method: str = FitMethod,
    concept: list[str] = FitConcept,
    model: str = common.ModelName,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    as_json: bool = common.Json,
) -> None:
    """Fit a detector on a dataset: train rows teach it, validation rows set its thresholds, test rows answer the sanity
    gates. Use it with --defense FILE."""
    from genward.catalog.fitting import parse_defense, template
    from genward.cli.fit import stem_of
    from genward.core.records import load_concept

    stem = stem_of(out)
    requests = parse_defense(method)
    if len(requests) != 1 or requests[0].name != "wukong" or requests[0].concept:
        raise BadInput(
            f"method {method!r}: wukong is what learns from such data, with fields after commas, as in wukong,epochs=40"
        )
    named = [load_concept(c) for c in concept]

    from genward.catalog import dataset, learning
    from genward.catalog.opening import open_model

    data = dataset.load(folder)
    settings = template(requests[0])
    if "sites" not in dict(requests[0].options):
        settings = learning.reading(settings, data)
    opened = open_model(model, device, dtype, download=download, variant=variant)
    with common.progress("epochs", as_json) as update:
        artifact, gates = learning.fit_file(
            data,
            opened,
            named or learning.concepts_of(data),
            settings,
            stem,
            lambda done, whole, loss: update(done, whole),
        )
    path = stem.with_name(stem.name + ".safetensors")
    if as_json:
        facts = {"out": str(path), "hash": artifact.hash, "card": dict(artifact.card)}
        common.emit({**facts, "gates": [g._asdict() for g in gates]})
        return
    judged(gates)
    common.note(str(path))


def judged(gates: Sequence[Gate]) -> None:
    """The sanity gates as a table, reasons below it."""
    said = {True: "yes", False: "no", None: None}
    told = [
        {"gate": g.name, "auroc": g.value, "against": g.against, "holds": said[g.holds], "rows": g.n} for g in gates
    ]
    common.table(told, ("gate", "auroc", "against", "holds", "rows"))
    for gate in gates:
        if gate.why:
            common.note(f"{gate.name}: {gate.why}")


@app.command("show")
def show_folder(folder: Path = typer.Argument(..., help="Folder of a dataset."), as_json: bool = common.Json) -> None:
    """Counts of a dataset, and how many prompts change their label between seeds."""
    from genward.catalog import dataset

    found = dataset.load(folder, states=False)
    show(dataset.summary(found, found.card["plan"]), as_json)


def show(card: dict[str, Any], as_json: bool) -> None:
    """Print a dataset's card."""
    if as_json:
        common.emit(card)
        return
    common.table(
        [{"split": s, **{k: v for k, v in row.items() if k != "positives"}} for s, row in card["splits"].items()],
        ("split", "rows", "clusters", "harm"),
    )
    changing = card["flips"]
    if changing["prompts"]:
        common.note(
            f"{changing['share']:.1%} of {changing['prompts']} prompts change their label between seeds "
            f"({changing['low']:.1%} to {changing['high']:.1%})"
        )
