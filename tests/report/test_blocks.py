"""Every kind of block on one page: drawn, escaped, offline; sounds as players; limits that are said."""

from __future__ import annotations

import base64
import io
import re
import wave
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from genward.core import blocks as b
from genward.errors import BadInput, GenwardError
from genward.report import build, claims
from genward.report.media import MAX_BYTES, MAX_SOUND, Album, seconds_of
from genward.report.rendering import TEMPLATES, asset

EVIL = '<b onclick="x">&{{ 7*7 }}\'"</b>'
HEAD = (b.Column("arm", "text"), b.Column(EVIL, hint=EVIL, better="less"), b.Column("command", "code"))
AXIS = b.Axis(EVIL, ((0.0, "0"), (1.0, "100")))
PLOT = b.Plot(EVIL, AXIS, AXIS, (b.Point(EVIL, 0.5, 0.5, EVIL),), missing=(EVIL,))


class Attributes(HTMLParser):
    """Names and values of every attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.values: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}
        self.values += [value or "" for _, value in attrs]


def tone(seconds: float = 0.25, rate: int = 8_000) -> bytes:
    samples = np.rint(3_000 * np.sin(np.arange(round(seconds * rate)) * 0.3)).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def every(sha: str) -> tuple[b.Block, ...]:
    cell = b.Cell(0.5, EVIL, EVIL, EVIL, EVIL, (EVIL, EVIL), EVIL)
    row = b.Row(EVIL, (cell, b.Cell(EVIL, EVIL)), "base", EVIL, (b.Chip(EVIL, "good", EVIL),))
    shots = (b.Shot(EVIL, sha=sha, mime="audio/wav", note=EVIL), b.Shot(EVIL, status="refused", why=EVIL))
    return (
        b.Heading(EVIL, EVIL),
        b.Text(EVIL, "warn"),
        b.Facts(((EVIL, EVIL),)),
        b.Box(EVIL, (b.Text(EVIL), b.Table(HEAD, (row,))), EVIL, EVIL),
        b.Table(HEAD, (row, b.Row("x", (None, None))), EVIL),
        b.Matrix(EVIL, HEAD[:2], (b.Row(EVIL, (cell,)), b.Row("x", (None,))), more=EVIL),
        PLOT,
        b.Choice(EVIL, EVIL, ((EVIL, PLOT), ("b", PLOT))),
        b.Curve(EVIL, (1.0, 0.5), EVIL),
        b.Strip(EVIL, EVIL, shots, ((EVIL, EVIL),), unsafe=True),
        b.Strip(EVIL, EVIL, shots[:1], ((EVIL, EVIL),)),
        b.Player(EVIL, data=tone(), note=EVIL),
    )


def page(store: Any, blocks: tuple[b.Block, ...], **about: Any) -> str:
    store.write("run", {"run": {"name": "run"}, "arms": [], **about})
    finding = b.Finding(EVIL, EVIL, EVIL, (b.Figure(EVIL, EVIL, EVIL, EVIL),), (EVIL,))
    found = b.Section("own", EVIL, blocks, b.Summary((finding,), (EVIL,)), (b.Term(EVIL, EVIL, EVIL),))
    return build(store, "run", sections=lambda metrics: [found]).read_text("utf-8")


def test_every_kind_of_block_has_a_template_of_its_own_and_escapes_everything(store: Any) -> None:
    assert set(TEMPLATES) == set(get_args(b.Block)) == {type(x) for x in every("0" * 64)} | {b.Player}
    assert all(asset(f"{name}.html") for name in TEMPLATES.values())
    text = page(store, every(store.keep(tone())))
    assert EVIL not in text and "&amp;49" not in text
    found = Attributes(text)
    assert not [name for name in found.names if name.startswith("on")] and found.values.count(EVIL) > 10


def test_a_player_needs_no_network_and_says_how_long_it_is(store: Any) -> None:
    sha = store.keep(tone(1.5))
    text = page(store, (b.Player("a tone", sha), b.Player("another", data=tone(0.5), seconds=2.0)))
    assert "media-src data:" in text
    sounds = re.findall(
        r'<audio controls preload="none" src="data:audio/wav;base64,([^"]+)" aria-label="([^"]+)">', text
    )
    assert [(base64.b64decode(data, validate=True), label) for data, label in sounds] == [
        (tone(1.5), "a tone"),
        (tone(0.5), "another"),
    ]
    assert "a tone <small>1.5 s</small>" in text and "another <small>2 s</small>" in text


def test_sounds_in_strips_have_controls_and_unsafe_ones_only_when_asked(store: Any) -> None:
    shots = (b.Shot("uce", sha=store.keep(tone()), mime="audio/wav"),)
    text = page(store, (b.Strip("a tone", "1", shots, unsafe=True), b.Strip("a tone", "2", shots)))
    audio = re.findall(r"<audio [^>]*>", text)
    assert [" hidden" in a.partition("aria-label")[2] for a in audio] == [True, False]
    assert text.count('class="unsafe" aria-pressed="false"') == 1


def test_what_is_missing_or_too_large_is_said(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    large = store.keep(tone(MAX_SOUND / 16_000 + 1))
    text = page(store, (b.Player("gone", "0" * 64), b.Player("large", large)))
    assert text.count("<audio") == 0 and "missing in store" in text and "too large for this page" in text
    assert "1 sample is named by the run but missing" in text
    album = Album(store)
    monkeypatch.setattr("genward.report.media.MAX_BYTES", 3 * len(tone()))
    states = [album.player(b.Player(str(k), data=tone())).state for k in range(4)]
    assert states == ["ok", "ok", "large", "large"] and MAX_BYTES > 3 * len(tone())


def test_only_wav_has_a_known_length() -> None:
    assert seconds_of(tone(0.25), "audio/wav") == 0.25
    assert seconds_of(b"RIFF", "audio/wav") is None and seconds_of(tone(), "audio/ogg") is None


def test_ids_are_the_pages_own_or_one_sections(store: Any) -> None:
    store.write("run", {"run": {}, "arms": []})
    for ids in (("a", "a"), ("judges",), ("claims",)):
        with pytest.raises(BadInput, match="two sections"):
            build(store, "run", sections=lambda metrics, ids=ids: [b.Section(i, i, ()) for i in ids])


def test_the_page_of_a_run_without_pictures_needs_no_pillow(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "image", lambda sha: (_ for _ in ()).throw(GenwardError("a picture was asked for")))
    text = page(store, (b.Player("a tone", data=tone()),))
    assert "<img" not in text and "missing" not in text


def test_the_header_says_what_is_not_usual_and_how_fast_the_machine_was(store: Any, tmp_path: Path) -> None:
    about = {"sampler": {"steps": 20, "guidance": 4.0, "height": 0, "width": 0, "eta": 0.0},
    "device": "a processor, 2 cores",
             "platform": "Linux x86_64", "rows_per_second": 51.96}  # fmt: skip
    text = page(store, (), run=about)
    facts = dict(re.findall(r"<div><dt>([^<]+)</dt><dd>([^<]+)</dd></div>", text))
    assert facts["Sampler"] == "steps 20, guidance 4.0"
    assert facts["Device"] == "a processor, 2 cores" and facts["Machine"] == "Linux x86_64"
    assert facts["Denoiser speed"] == "52 rows/s over the run"
    assert "52 rows/s over the run" in page(store, (), run=about | {"rows_per_second_measured": 3.1})
    for unknown in ({"rows_per_second": None}, {"rows_per_second": float("nan")}):
        text = page(store, (), run=about | unknown | {"rows_per_second_measured": 48.8})
        assert "48.8 rows/s in a short test before it" in text
    text = page(store, (), run={"sampler": {"steps": 4, "guidance": 0.0, "height": 512, "eta": 1.0, "shift": 3}})
    assert "steps 4, guidance 0.0, height 512, eta 1.0, shift 3" in text and "rows/s" not in text


def test_claims_carry_their_verdict_as_a_chip(store: Any, metrics: dict[str, Any]) -> None:
    metrics["claims"][0]["why"] = "too few rows"
    (_, table, again) = claims.section(metrics).blocks
    assert isinstance(table, b.Table) and isinstance(again, b.Text)
    assert all(row["command"] in again.text for row in metrics["claims"])
    chips = [row.cells[3].chip for row in table.rows if row.cells[3]]
    assert [(c.text, c.tone) for c in chips if c] == [("cannot tell", ""), ("holds", "good")]
    told = '<span class="whole"><span class="chip">cannot tell</span><sup class="foot">'
    assert told in page(store, (table,)), "a verdict and the number of its footnote stay on one line"
    ours = table.rows[0].cells[2]
    assert ours is not None and (ours.text, ours.interval) == ("0.04", "-0.02 to 0.09")
