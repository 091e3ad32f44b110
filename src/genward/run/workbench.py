"""The search stage: a benchmark searches on a workbench that opens arms, runs attacks and keeps what was spent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog import plugins, text_guards
from genward.catalog.judges import open_judge
from genward.catalog.opening import Opener
from genward.core import defending
from genward.core.benchmark import KEEP, ArmView, Found, Scene, Setting, apart
from genward.core.records import Case, Sample
from genward.core.spec import Spec, digest
from genward.run.generate import Bound, Progress, Say
from genward.run.plan import Plan, Work
from genward.run.references import Held
from genward.run.search import attack_arm, met_by
from genward.run.target import Means, writable

if TYPE_CHECKING:
    from PIL.Image import Image

    from genward.store import Store


@dataclass(frozen=True)
class Arm:
    """One piece of work as a search sees it, see ``core.benchmark.ArmView``."""

    piece: Bound
    concepts: frozenset[str]

    @property
    def label(self) -> str:
        return self.piece.work.label

    @property
    def guidance(self) -> float:
        return float(getattr(self.piece.sampler, "guidance", 1.0))  # a family without guidance has one branch

    @property
    def needs_guidance(self) -> bool:
        return any(defending.needs_guidance(d) for d in self.piece.defenses)


@dataclass
class Bench:
    """A run's workbench, see ``core.benchmark.Workbench``."""

    plan: Plan
    setting: Setting
    bound: Sequence[Bound]
    models: Opener
    store: Store
    progress: Progress | None = None
    say: Say | None = None
    again: bool = False
    """Search even where the store holds what was found"""
    judge: Any = None
    """Whom attacks ask about their pictures; the plan's by default"""
    tensors: dict[str, Any] = field(default_factory=dict)
    """All that the searches found, by content hash"""
    _black: dict[str, Found] = field(default_factory=dict)
    _held: dict[str, Mapping[str, Sequence[Image]]] = field(default_factory=dict)

    @property
    def arms(self) -> list[Arm]:
        every = frozenset(c.name for c in self.setting.concepts)
        return [Arm(b, frozenset({b.work.concept}) if b.work.concept else self._seen(b, every)) for b in self.bound]

    def _seen(self, piece: Bound, every: frozenset[str]) -> frozenset[str]:
        narrowed = next(a.concepts for a in self.plan.arms if a.label == piece.work.label)
        names = dict(zip(self.plan.concepts, (c.name for c in self.setting.concepts), strict=True))
        return frozenset(names[c] for c in narrowed) or every

    @property
    def folder(self) -> Path:
        return self.store.run_folder(self.plan.name)

    def tell(self, stage: str, done: int, total: int, about: str = "") -> None:
        if self.progress is not None:
            self.progress(stage, done, total, about)

    def plugin(self, kind: str, name: str) -> Any:
        return plugins.find(kind, name)

    def text_guard(self, text: str) -> Any:
        return text_guards.adapter(text)

    def text_encoder(self, tokens: int) -> Any:
        import genward.lab as lab
        from genward.models.text import TextEncoder

        tokenizer, encoder = lab.text_encoder()
        tokenizer.model_max_length = tokens
        return TextEncoder(tokenizer, encoder, name="all-MiniLM-L6-v2", tokens=tokens)

    def black(self, attack: Any, cases: Sequence[Case], references: str = "") -> Found:
        found = self._attacked(attack, cases, self.plan.model, (), references)
        self._black[_named(attack, references)] = found
        return found

    def white(self, attack: Any, cases: Sequence[Case], arm: ArmView, references: str = "") -> Found:
        """See ``Workbench``. The control of strength zero shares the undefended model's search: it must make the base
        arm's pictures bit for bit, and a search of its own would find others."""
        piece = next(a.piece for a in self.arms if a == arm)
        through = () if piece.work.control == "zero" else piece.defenses
        met = met_by(attack, self.models(piece.work.model), through)
        there = self._black.get(_named(attack, references))
        if there is not None and not met and piece.work.model == self.plan.model:
            return there  # to this attack the arm is the undefended model
        return self._attacked(attack, cases, piece.work.model, through, references)

    def means(self, attack: Any) -> Means:
        """What the attacker holds, of what it asks for: the run's judge, other wordings."""
        asks: frozenset[str] = getattr(attack, "asks", frozenset())
        judge = None
        if "judge" in asks:
            judge = open_judge(self.plan.judge) if self.judge is None else self.judge
        labels = {c.name: c.judge or c.targets for c in self.setting.concepts} if "judge" in asks else {}
        phrases = {c.name: (*c.phrases, *c.heldout) for c in self.setting.concepts} if "phrases" in asks else {}
        words = self.setting.words
        return Means(judge, labels, words.get("things", {}) if "things" in asks else {}, phrases, writable(words))

    def held(self, references: str) -> Mapping[str, Sequence[Image]]:
        """Reference pictures by concept, those of what must stay under ``apart`` names as well; read once."""
        if self.plan.benchmark.media != "image":
            return {}
        if references not in self._held:
            size = self.models(self.plan.model).size(self.plan.sampler)
            held = Held(references, self.plan.model, self.setting.concepts, self.setting.avoid).pictures(size)
            kept: Sequence[Image] = held.get(KEEP, [])
            self._held[references] = {**held, **{apart(c.name): kept for c in self.setting.concepts}}
        return self._held[references]

    def _attacked(self, attack: Any, cases: Sequence[Case], model: str, defenses: Any, references: str) -> Found:
        found = attack_arm(
            attack,
            cases,
            self.models(model),
            defenses,
            self.plan.sampler,
            self.held(references),
            self.store,
            styles=self.setting.words.get("styles", ()),
            again=self.again,
            say=self.say,
            means=self.means(attack),
        )
        self.tensors.update(found.tensors)
        return found


def _named(attack: Any, references: str) -> str:
    return digest([Spec.of("attack", attack).to_json(), references])


# ---------------------------------------------------------------------------------------------------------------- stage


class Searched(NamedTuple):
    """The outcome of the search stage."""

    scenes: list[Scene]
    pieces: list[Work]
    """Rows to make, those of one arm and guidance together"""
    tensors: dict[str, Any]


def search(bench: Bench, parents: Sequence[Case]) -> Searched:
    """Let the plan's benchmark search; gives the rows to make and where they belong."""
    scenes = list(bench.plan.benchmark.search(parents, bench))
    pieces = [_piece(scene) for scene in scenes if scene.cases]
    return Searched(scenes, merged(pieces), bench.tensors)


def _piece(scene: Scene) -> Work:
    assert isinstance(scene.arm, Arm)
    return scene.arm.piece.work._replace(cases=scene.cases, guidance=scene.guidance)


def merged(pieces: Iterable[Work]) -> list[Work]:
    """Pieces of one arm and guidance as one, each row once, so that batches are full; rows that start from pictures go
    through another pipeline and stay apart."""
    groups: dict[tuple[Any, ...], dict[str, Case]] = {}
    for piece in pieces:
        for case in piece.cases:
            key = (piece.label, piece.model, piece.defenses, piece.control, piece.concept, piece.guidance)
            groups.setdefault((*key, case.inputs.pictured), {})[Sample(case).id] = case
    return [
        Work(label, model, text, control, concept, tuple(rows.values()), guidance)
        for (label, model, text, control, concept, guidance, _), rows in groups.items()
    ]


def placed(scenes: Sequence[Scene], bound: Sequence[Bound]) -> list[dict[str, Any]]:
    """Scenes as they are written down: with the arm's hash and sample ids in the place of their cases."""
    arm = {(b.work.label, b.work.concept, b.work.guidance): b.arm for b in bound}
    out = []
    for scene in scenes:
        assert isinstance(scene.arm, Arm)
        where = arm.get((scene.arm.label, scene.arm.piece.work.concept, scene.guidance), "")
        head = {"arm": scene.arm.label, "concept": scene.concept, "variant": scene.variant, "attack": scene.attack}
        guidance = scene.arm.guidance if scene.guidance is None else scene.guidance
        ids = [Sample(c, where).id for c in scene.cases]
        out.append({**head, "guidance": guidance, **scene.facts, "hash": where, "ids": ids})
    return out
