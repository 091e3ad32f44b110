"""The lab's two judges: which of the lab's objects and styles a picture shows; "none of these" is a possible answer.

They differ in architecture and seed, and each was trained by itself. One scores; the other one says how far the score
can be trusted, labels what defenses learn from, and looks at pictures for filters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genward.core.contracts import Card
from genward.core.records import Sample, Score
from genward.errors import BadArtifact

EDGE = 64


@cache
def _load(folder: str) -> tuple[Any, dict[str, Any]]:
    from safetensors.torch import load_file

    from genward.ops.vision import SHAPES

    root = Path(folder)
    try:
        raw = json.loads((root / "card.json").read_text("utf-8"))
        net = SHAPES[raw["network"]](len(raw["names"]))
        wanted, got = raw.get("sha256"), sha256((root / "judge.safetensors").read_bytes()).hexdigest()
        if wanted is not None and wanted != got:
            raise ValueError("judge.safetensors is not the file that its card describes: the SHA-256 differs")
        state = {
            k: v.float() if v.is_floating_point() else v for k, v in load_file(str(root / "judge.safetensors")).items()
        }
        net.load_state_dict(state)
    except FileNotFoundError as error:
        raise BadArtifact(
            f"no judge in {root}: {Path(str(error.filename)).name} is missing; reinstall genward, or run: genward lab "
            "build"
        ) from error
    except Exception as error:
        raise BadArtifact(
            f"the judge in {root} cannot be loaded ({type(error).__name__}: {str(error)[:200]}); reinstall genward"
        ) from error
    return net.eval(), raw


@dataclass(frozen=True)
class LabJudge:
    """Objects and styles of the lab in a picture: one probability a label, thresholds and error rates on its card."""

    name: ClassVar[str] = "lab"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    part: ClassVar[str] = "judge"
    """Its folder among the weights of the lab."""
    folder: str = ""
    """Folder with ``card.json`` and ``judge.safetensors``; empty: the one that comes with genward."""
    batch: int = 128
    """Pictures a forward pass."""

    def _loaded(self) -> tuple[Any, dict[str, Any]]:
        return _load(self.folder or str(resources.files("genward").joinpath("lab", "weights", self.part)))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._loaded()[1]["names"])

    @property
    def card(self) -> Card:
        raw = self._loaded()[1]
        facts = {**raw.get("facts", {}), "network": raw["network"]} | (
            {"sha256": raw["sha256"]} if "sha256" in raw else {}
        )
        return Card(self.name, raw["summary"], raw["labels"], facts)

    def _run(self, samples: Sequence[Sample], method: str) -> tuple[Any, Any]:
        """Rows with a picture, and the network's answers for them (float32)."""
        import torch
        from PIL import Image

        net = self._loaded()[0]
        readable = np.array([k for k, s in enumerate(samples) if s.image is not None], dtype=int)
        answers = []
        with torch.no_grad():
            for start in range(0, len(readable), self.batch):
                rows = []
                for k in readable[start : start + self.batch]:
                    picture = samples[k].image
                    assert picture is not None
                    picture = picture.convert("RGB")
                    if picture.size != (EDGE, EDGE):
                        picture = picture.resize((EDGE, EDGE), Image.Resampling.LANCZOS)
                    rows.append(np.asarray(picture, np.float32) / 127.5 - 1)
                x = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)
                y = net(x).sigmoid() if method == "judge" else net.features(x)
                answers.append(y.float().numpy())
        return readable, np.concatenate(answers) if answers else np.zeros((0, 1), np.float32)

    def judge(self, samples: Sequence[Sample]) -> list[Score]:
        """One ``Score`` a label and sample, a probability in [0, 1]; NaN with a reason where there is no picture.

        Pictures of another size than 64×64 are resized (Lanczos) first.
        """
        names = self.labels
        readable, answers = self._run(samples, "judge")
        rows = dict(zip(readable.tolist(), answers, strict=True))
        out = []
        for k, sample in enumerate(samples):
            for j, name in enumerate(names):
                if k in rows:
                    out.append(Score(sample.id, name, float(rows[k][j])))
                else:
                    out.append(
                        Score(sample.id, name, float("nan"), f"no picture: {sample.status} {sample.why}".strip())
                    )
        return out

    def features(self, samples: Sequence[Sample]) -> Any:
        """(n, 160) float32 features before the head, NaN rows where there is no picture."""
        readable, answers = self._run(samples, "features")
        width = answers.shape[1] if len(answers) else 1
        out = np.full((len(samples), width), np.nan, np.float32)
        out[readable] = answers
        return out


@dataclass(frozen=True)
class SecondLabJudge(LabJudge):
    """The lab's second judge: another architecture and seed, trained by itself; convolutions without skips."""

    name: ClassVar[str] = "lab_second"
    part: ClassVar[str] = "second_judge"
