"""The store: what was made, found again by content.

::

    schema.json                       {"schema": 2}
    arms/<hash>/arm.json              written before the arm's first sample
    samples/part-*.parquet            one part a batch, named by the batch's key
    scores/<judge>/judge.json, part-*.parquet
    features/<judge>/part-*.parquet
    media/ab/<sha256>.<extension>     pictures (png) and sounds (wav); sha256 of the file's bytes; shared by all arms
    reserved/<purpose>/part-*.parquet keys that belong to fitting, calibration or evaluation
    given/<sha256>/<file or folder>   what runs were given: concepts, prompts, cards, folders
    runs/<name>/                      plan, metrics, report
    fits/                             fitted artifacts
    attacks/                          what attacks found, by what they were searched against
    tmp/                              files in the making; never read, removed on opening once their process is gone
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import genward.store.parts as parts
from genward.core import media as kinds
from genward.core.files import json_text, plain, sweep
from genward.core.media import MEDIA, Media
from genward.core.records import Sample, Score
from genward.core.spec import digest
from genward.errors import BadInput, StoreError, UnknownName
from genward.store.check import problems
from genward.store.files import SCHEMA, TEMPORARY, folders, named, read_json, said, write_bytes, write_many
from genward.store.forget import forget_samples, forget_scores
from genward.store.rows import PURPOSES, case_of, row_of

if TYPE_CHECKING:
    from PIL.Image import Image

SHA = re.compile(r"[0-9a-f]{64}")
BEFORE = frozenset({"fits", "attacks", TEMPORARY, "lost+found"})
"""What may stand in a folder before it becomes a store."""


class Store:
    """A folder of results. Safe to write from several processes at once; a kill at any moment leaves it whole.

    Args:
        root: the folder.
        create: make it where it is missing; otherwise a missing store is an error.

    Raises:
        StoreError: no store there, a folder of other files, an older or newer schema, or a place that cannot be
            written.
    """

    def __init__(self, root: Path | str, create: bool = True) -> None:
        self.root = Path(root).absolute()
        self._index: dict[Path, tuple[tuple[int, int, int], list[str], list[str]]] = {}
        self._open(create)
        sweep(self.root / TEMPORARY)

    def _open(self, create: bool) -> None:
        mark = self.root / "schema.json"
        with said(self.root, "opened"):
            if mark.exists():
                self._checked(mark)
                return
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(f"{self.root} is a file, not a store; name a folder with --store")
            inside = {p.name for p in self.root.iterdir()} if self.root.is_dir() else set()
        if inside & {"arms", "samples", "scores", "media"}:
            raise StoreError(
                f"{self.root} is a store without schema.json: an older schema, or damaged; use a new folder, or "
                "restore the file from a copy"
            )
        other = sorted(name for name in inside - BEFORE if not name.startswith("."))
        if other:
            raise StoreError(
                f"{self.root} is not a store and holds other files ({', '.join(other[:3])}); name an empty or new "
                "folder with --store"
            )
        if not create:
            raise StoreError(
                f"no store at {self.root}; make one with `genward run`, or name another folder with --store"
            )
        self.write_json(mark, {"schema": SCHEMA})

    @staticmethod
    def _checked(mark: Path) -> None:
        raw = read_json(mark)
        found = raw.get("schema") if isinstance(raw, dict) else None
        if not isinstance(found, int) or isinstance(found, bool):
            raise StoreError(f"{mark} names no schema; it was changed: restore it from a copy, or use a new folder")
        if found != SCHEMA:
            age = "older" if found < SCHEMA else "newer"
            hint = (
                "cases, costs and media are laid out anew, so its rows would not be found: name a new folder with "
                "--store (a copy of this one's fits/ in it keeps what defenses learned) and run again, or read it with "
                "the genward that wrote it"
                if found < SCHEMA
                else "update genward, or name a new folder with --store"
            )
            raise StoreError(
                f"{mark.parent} has schema {found}, {age} than the schema {SCHEMA} of this version; {hint}"
            )

    # ------------------------------------------------------------------------------------------------------- JSON, runs

    def _inside(self, path: Path | str) -> Path:
        full = Path(path) if Path(path).is_absolute() else self.root / path
        if not full.is_relative_to(self.root) or ".." in full.relative_to(self.root).parts:
            raise StoreError(f"{path} lies outside the store {self.root}; give a path below it")
        return full

    def write_json(self, path: Path | str, data: Any) -> Path:
        """Write ``data`` to a path below the root, whole or not at all; numbers that are not finite become ``null``."""
        return self.write_text(path, json_text(data))

    def write_text(self, path: Path | str, text: str) -> Path:
        """Write a UTF-8 text to a path below the root, whole or not at all."""
        full = self._inside(path)
        write_bytes(self.root, full, text.encode("utf-8", "backslashreplace"))
        return full

    def read_json(self, path: Path | str) -> Any:
        """What a JSON file below the root holds."""
        return read_json(self._inside(path))

    def run_folder(self, run: str) -> Path:
        """The folder of a run; it is made with the first file that is written into it."""
        return self.root / "runs" / named("run", run)

    def runs(self) -> list[str]:
        """Names of the runs, sorted."""
        return folders(self.root / "runs")

    @property
    def fits(self) -> Path:
        """The folder of fitted artifacts."""
        return self.root / "fits"

    @property
    def attacks(self) -> Path:
        """The folder of what attacks found: one artifact a search."""
        return self.root / "attacks"

    # ------------------------------------------------------------------------------------------------------------- arms

    def put_arm(self, arm: Mapping[str, Any], name: str = "") -> str:
        """Write an arm down; the same arm again changes nothing.

        Args:
            name: its hash, where that is made from a part of the record only; empty takes ``core.digest(arm)``.

        Returns:
            The hash.
        """
        name = named("arm", name or digest(arm))
        path = self.root / "arms" / name / "arm.json"
        if not path.exists():
            self.write_json(path, arm)
        return name

    def arm(self, name: str) -> dict[str, Any]:
        """An arm's record; ``UnknownName`` where there is none."""
        path = self.root / "arms" / named("arm", name) / "arm.json"
        if not path.exists():
            raise UnknownName("arm", name, self.arms())
        raw = read_json(path)
        if not isinstance(raw, dict):
            raise StoreError(f"{path} is not an arm; delete it and run again")
        return raw

    def arms(self) -> list[str]:
        """Hashes of all arms, sorted."""
        return [name for name in folders(self.root / "arms") if (self.root / "arms" / name / "arm.json").exists()]

    # ---------------------------------------------------------------------------------------------------------- samples

    def put_samples(self, samples: Sequence[Sample], key: str) -> Path:
        """Write one batch: its media first, then its rows as one part that replaces any earlier part of the same key.

        Latents are not kept. Notes are kept as JSON.

        Raises:
            BadInput: no samples, an unknown status, an ``ok`` sample without output, a value that cannot be kept.
            StoreError: a sample's arm was not written first; the disk.
        """
        if not samples:
            raise BadInput("an empty batch of samples; give at least one")
        for arm in {s.arm for s in samples}:
            if not arm or not (self.root / "arms" / named("arm", arm) / "arm.json").exists():
                raise StoreError(f"arm {arm!r} of these samples was not written; call put_arm before put_samples")
        outputs = [None if sample.output is None else self._named(sample.output) for sample in samples]
        made = [row_of(sample, output[0] if output else "") for sample, output in zip(samples, outputs, strict=True)]
        self._put_files([output[1:] for output in outputs if output is not None])
        columns = {name: [row[name] for row in made] for name in parts.SAMPLES.names}
        return parts.write_part(self.root, self.root / "samples", key, columns, parts.SAMPLES)

    def samples(self, arms: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """All rows, or those of some arms, sorted by arm, case and id.

        Fields: ``id, arm, case`` (the case's own id), the other fields of a case (``inputs`` name -> hash), ``status,
        why, output`` (sha256 or ``""``), ``mime``, ``notes`` (JSON text), ``seconds``, ``costs`` (name -> number).
        Where several parts hold one id, a row that is no error wins, then the first part by name."""
        wanted = None if arms is None else set(arms)
        found: dict[str, dict[str, Any]] = {}
        for path in parts.part_files(self.root / "samples"):
            if wanted is not None and not wanted & set(self._ids(path)[1]):
                continue
            for row in parts.read_part(path, parts.SAMPLES).to_pylist():
                if wanted is not None and row["arm"] not in wanted:
                    continue
                there = found.get(row["id"])
                if there is None or (there["status"] == "error" and row["status"] != "error"):
                    found[row["id"]] = row | {name: json.loads(row[name]) for name in ("inputs", "costs")}
        return sorted(found.values(), key=lambda row: (row["arm"], row["case"], row["id"]))

    def load(self, row: Mapping[str, Any]) -> Sample:
        """The sample of a row of ``samples``, with its output."""
        output = self.media(row["output"], row["mime"]) if row["output"] else None
        return Sample(
            case_of(row),
            row["arm"],
            row["status"],
            output,
            None,
            row["why"],
            json.loads(row["notes"]),
            row["seconds"],
            dict(row["costs"]),
        )

    def done(self, arm: str) -> set[str]:
        """Ids of the arm's samples on disk, errors included."""
        found: set[str] = set()
        for path in parts.part_files(self.root / "samples"):
            ids, arms = self._ids(path)
            found.update(i for i, a in zip(ids, arms, strict=True) if a == arm)
        return found

    def parts(self) -> set[str]:
        """Keys of the batches of samples on disk."""
        return {parts.read_key(path) for path in parts.part_files(self.root / "samples")}

    def _ids(self, path: Path) -> tuple[list[str], list[str]]:
        """(ids, arms) of a part, remembered until the file changes."""
        with said(path, "read"):
            stat = path.stat()
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if path not in self._index or self._index[path][0] != stamp:
            table = parts.read_part(path, parts.SAMPLES, ("id", "arm"))
            self._index[path] = (stamp, table["id"].to_pylist(), table["arm"].to_pylist())
        return self._index[path][1:]

    # ------------------------------------------------------------------------------------------------------------ media

    def media_path(self, sha: str, mime: str = "image/png") -> Path:
        """Where the media of a sha256 is or would be. ``UnknownName`` for a type that is not kept."""
        if not isinstance(sha, str) or not SHA.fullmatch(sha):
            raise StoreError(
                f"{str(sha)[:80]!r} names no picture or sound; they are named by the 64 hex digits of their sha256"
            )
        if mime not in MEDIA:
            raise UnknownName("media type", mime, MEDIA)
        return self.root / "media" / sha[:2] / f"{sha}.{MEDIA[mime].extension}"

    def put_media(self, media: Media) -> str:
        """Keep a picture or a sound; its name is the sha256 of the file. Equal content is kept once; a damaged file is
        written again."""
        sha, path, data = self._named(media)
        self._put_files([(path, data)])
        return sha

    def put_image(self, picture: Image) -> str:
        """``put_media`` of a PIL picture."""
        return self.put_media(kinds.Image(picture))

    def _named(self, media: Media) -> tuple[str, Path, bytes]:
        """(sha, path, bytes) of a media's file."""
        data = media.encoded()
        sha = hashlib.sha256(data).hexdigest()
        return sha, self.media_path(sha, media.mime), data

    def _put_files(self, files: Iterable[tuple[Path, bytes]]) -> None:
        """Write those that are not there, or not as they should be."""
        missing = {}
        for path, data in dict(files).items():
            with said(path, "read"):
                if not path.exists() or path.read_bytes() != data:
                    missing[path] = data
        if missing:
            write_many(self.root, missing)

    def media(self, sha: str, mime: str = "image/png") -> Media:
        """A picture or a sound, its content held against its name.

        Raises:
            StoreError: missing, or other bytes than those that were written.
        """
        path = self.media_path(sha, mime)
        what = f"{MEDIA[mime].kind} {path}"
        if not path.exists():
            raise StoreError(f"{what} is missing; delete the part that names it (genward check tells which) and resume")
        with said(path, "read"):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha:
            raise StoreError(
                f"{what} is corrupt; delete it and the part that names it (genward check tells which) and resume"
            )
        return kinds.decode(data, mime)

    def image(self, sha: str) -> Image:
        """The PIL picture of a sha256; raises as ``media``."""
        found = self.media(sha)
        assert isinstance(found, kinds.Image)
        return found.picture

    # ----------------------------------------------------------------------------------------------------------- scores

    def put_scores(
        self, judge: str, scores: Iterable[Score], card: Any = None, key: str = "", spec: Any = None
    ) -> Path:
        """Write one batch of scores of a judge (its hash), in place of any earlier batch of the same key.

        Args:
            card: the judge's card, a ``core.Card`` or a table; kept in ``judge.json`` beside ``spec``.
            key: names the batch; empty takes the samples it is about.

        Raises:
            BadInput: no scores; StoreError: the disk.
        """
        listed = [Score(*s) for s in scores]
        if not listed:
            raise BadInput("an empty batch of scores; a judge that cannot judge says NaN and why")
        folder = self.root / "scores" / named("judge", judge)
        known = {k: plain(v) for k, v in (("card", card), ("spec", spec)) if v is not None}
        before = self.judge(judge)
        if {**before, **known} != before or not (folder / "judge.json").exists():
            self.write_json(folder / "judge.json", {**before, **known})
        columns = {name: [getattr(s, name) for s in listed] for name in parts.SCORES.names}
        columns["value"] = [float(v) for v in columns["value"]]
        return parts.write_part(
            self.root, folder, key or digest(sorted({s.sample for s in listed})), columns, parts.SCORES
        )

    def scores(self, judge: str) -> list[dict[str, Any]]:
        """Rows ``{sample, label, value, why}`` sorted by sample and label. Of several, one with a number wins, then the
        first part by name."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        files = parts.part_files(self.root / "scores" / named("judge", judge))
        for row in (row for path in files for row in parts.read_scores(path).to_pylist()):
            there = found.get((row["sample"], row["label"]))
            if there is None or (there["value"] != there["value"] and row["value"] == row["value"]):
                found[row["sample"], row["label"]] = row
        return [found[k] for k in sorted(found)]

    def judged(self, judge: str) -> set[str]:
        """Ids of the samples that the judge has scored."""
        files = parts.part_files(self.root / "scores" / named("judge", judge))
        return {s for path in files for s in parts.read_part(path, parts.SCORES, ("sample",))["sample"].to_pylist()}

    def judge(self, judge: str) -> dict[str, Any]:
        """``{"card": …, "spec": …}`` as far as they were given; empty for a judge that is not here."""
        path = self.root / "scores" / named("judge", judge) / "judge.json"
        return dict(read_json(path)) if path.exists() else {}

    def judges(self) -> list[str]:
        """Hashes of the judges that have scored something, sorted."""
        return folders(self.root / "scores")

    def put_features(self, judge: str, features: Mapping[str, Any], key: str = "") -> Path:
        """Write one batch of feature vectors: sample id -> (d,) numbers, kept as float32; NaN where there was no
        picture.

        Raises:
            BadInput: none at all, or vectors of different widths.
        """
        ids = list(features)
        try:
            matrix = np.stack([np.asarray(features[i], np.float32) for i in ids])
        except ValueError as error:
            raise BadInput(f"feature vectors cannot be kept: {error}; all of one judge have the same width") from error
        if matrix.ndim != 2 or not matrix.shape[1]:
            raise BadInput(f"features of shape {matrix.shape[1:]} a sample; a vector is wanted")
        folder = self.root / "features" / named("judge", judge)
        return parts.write_features(self.root, folder, key or digest(sorted(ids)), ids, matrix)

    def features(self, judge: str) -> dict[str, np.ndarray]:
        """Sample id -> (d,) float32; of several, one without NaN wins, then the first part by name."""
        found: dict[str, np.ndarray] = {}
        for path in parts.part_files(self.root / "features" / named("judge", judge)):
            ids, matrix = parts.read_features(path)
            whole = [bool(np.isfinite(v).all()) for v in matrix]
            for k, sample in enumerate(ids):
                if sample not in found or (whole[k] and not np.isfinite(found[sample]).all()):
                    found[sample] = matrix[k]
        return found

    def reserve(self, purpose: str, keys: Iterable[str]) -> None:
        """Set keys (seeds, captions, styles …) aside for ``fit``, ``calibrate`` or ``evaluate``; the same keys for the
        same purpose change nothing.

        Raises:
            StoreError: some of them belong to another purpose. Nothing is set aside then.
        """
        if purpose not in PURPOSES:
            raise UnknownName("purpose", purpose, PURPOSES)
        wanted = {str(k) for k in keys}
        if not wanted:
            return
        self._disjoint(purpose, wanted)
        if wanted <= self.reserved(purpose):
            return
        path = parts.write_part(
            self.root, self.root / "reserved" / purpose, digest(sorted(wanted)), {"key": sorted(wanted)}, parts.RESERVED
        )
        try:
            self._disjoint(purpose, wanted)  # another process may have come between
        except StoreError:
            path.unlink(missing_ok=True)
            raise

    def _disjoint(self, purpose: str, wanted: set[str]) -> None:
        for other in PURPOSES:
            both = sorted(wanted & self.reserved(other)) if other != purpose else []
            if both:
                shown = ", ".join(repr(k) for k in both[:3]) + (", …" if len(both) > 3 else "")
                raise StoreError(
                    f"{len(both)} of {len(wanted)} keys for {purpose} belong to {other}: {shown}; use other seeds, "
                    "captions or styles, or a new store"
                )

    def reserved(self, purpose: str) -> set[str]:
        """Keys set aside for a purpose."""
        return {row["key"] for row in parts.rows(self.root / "reserved" / purpose, parts.RESERVED)}

    def forget(self, ids: Iterable[str], judge: str = "") -> None:
        """Take samples and all that was said about them out, or only what one judge said; see ``store.forget``."""
        forget_scores(self.root, judge, set(ids)) if judge else forget_samples(self.root, set(ids), self.judges())

    def check(self) -> list[str]:
        """Read and verify everything: one line a problem, none if all is well. Files in the making are no problem."""
        return problems(self)
