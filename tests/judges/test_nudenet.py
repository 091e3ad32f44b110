"""NudeNet in its own process: real weights on harmless pictures; crashes, hangs and nonsense never become a score."""

from __future__ import annotations

import math
import random
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageDraw, ImageFilter

from genward import lab
from genward.catalog.judges import judge_hash
from genward.core import Case, Sample, Spec, media
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.judges import nudenet
from genward.judges.nudenet import ANY, CLASSES, PARTS, NudeNet, readings
from genward.metrics.erasure import pooled_card

HEAD = f"""
import json, struct, sys, time
def send(x):
    data = x if isinstance(x, bytes) else json.dumps(x).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data); sys.stdout.buffer.flush()
def receive():
    head = sys.stdin.buffer.read(4)
    return sys.stdin.buffer.read(struct.unpack(">I", head)[0]) if head else sys.exit(0)
send({{"classes": {list(CLASSES)!r}}})
"""


def sample(picture: Image.Image | None, name: str = "a", **more: str) -> Sample:
    return Sample(Case(name, "a picture"), output=None if picture is None else media.Image(picture), **more)  # type: ignore[arg-type]


def plain(color: str = "red", size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, color)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # noqa: ANN201
    """Replace the worker by a script that begins as a worker does and goes on as given."""

    def put(body: str, head: str = HEAD) -> None:
        script = tmp_path / "worker.py"
        script.write_text(head + body)
        monkeypatch.setattr(nudenet, "WORKER", script)

    return put


def test_real_weights_find_nothing_in_harmless_pictures() -> None:
    drawing = plain("white", (96, 64))
    ImageDraw.Draw(drawing).rectangle((10, 10, 50, 50), fill="blue")
    renders = [picture for _, _, picture in lab.references()][::40][:3]
    pictures = [
        plain("red"),
        plain("black", (1, 1)),
        drawing,
        plain("red").convert("RGBA"),
        plain("red").convert("L"),
        *renders,
    ]
    with NudeNet() as judge:
        samples = [sample(p, str(k)) for k, p in enumerate(pictures)] + [
            sample(None, "none", status="refused", why="sld: x")
        ]
        scores = judge.judge(samples)
        (child,) = judge._children
        again = judge.judge(samples[:1])
        assert judge._children == [child] and child.process.poll() is None, "one process serves all calls"
    assert child.process.poll() is not None and not judge._children, "closing ends it"
    assert [s.label for s in scores] == list(judge.labels) * len(samples) and again == scores[: len(judge.labels)]
    seen, none = scores[: -len(judge.labels)], scores[-len(judge.labels) :]
    assert all(0 <= s.value < judge.threshold and not s.why for s in seen)
    assert all(math.isnan(s.value) and s.why == "no picture: refused sld: x" for s in none)


def face() -> Image.Image:
    """A drawing of a face in the colors of one, 320×320, so that the network gets its pixels as they are."""
    picture = Image.new("RGB", (320, 320), (90, 120, 90))
    draw, hair, skin = ImageDraw.Draw(picture), (70, 40, 25), (150, 100, 70)
    draw.ellipse((70, 20, 250, 260), hair)
    draw.rectangle((70, 140, 250, 300), hair)
    draw.rectangle((135, 230, 185, 300), (132, 88, 62))
    draw.ellipse((40, 270, 280, 420), (60, 70, 120))
    draw.ellipse((95, 55, 225, 260), skin)
    draw.ellipse((95, 30, 225, 110), hair)
    for x in (128, 192):
        draw.ellipse((x - 17, 135, x + 17, 155), (245, 245, 240))
        draw.ellipse((x - 8, 136, x + 8, 154), (80, 50, 30))
        draw.ellipse((x - 3, 141, x + 3, 149), (10, 10, 10))
        draw.arc((x - 20, 115, x + 20, 140), 200, 340, hair, 5)
    draw.line((160, 150, 152, 192, 166, 194), (120, 80, 56), 3)
    draw.ellipse((138, 208, 182, 230), (190, 70, 75))
    draw.line((138, 219, 182, 219), (120, 40, 45), 2)
    for x in (118, 202):
        draw.ellipse((x - 14, 175, x + 14, 200), (170, 97, 75))
    return picture.filter(ImageFilter.GaussianBlur(2))


def test_the_network_sees_red_as_red() -> None:
    """The judge's score of a colored face is that of the weights run by themselves on RGB, not on BGR."""
    picture, label = face(), "FACE_FEMALE"
    package = Path(next(iter(find_spec("nudenet").submodule_search_locations)))  # type: ignore[union-attr, arg-type]
    session = onnxruntime.InferenceSession(str(package / "320n.onnx"), providers=["CPUExecutionProvider"])

    def alone(pixels: np.ndarray) -> float:
        blob = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32) / 255
        out = session.run(None, {session.get_inputs()[0].name: blob})[0][0]  # (4 + classes, boxes)
        return float(out[4 + CLASSES.index(label)].max())

    right, wrong = alone(np.asarray(picture)), alone(np.asarray(picture)[..., ::-1])
    assert right > 0.25 and abs(right - wrong) > 0.05, "the colors matter to the network"
    with NudeNet(counted=(label,)) as judge:
        found = {s.label: s.value for s in judge.judge([sample(picture)])}
        assert judge.card.facts["colors"] == "RGB, decoded by genward"
    assert abs(found[label] - right) < 1e-4


def test_readings_against_a_loop() -> None:
    rng = random.Random(0)
    for _ in range(50):
        counted = rng.sample(CLASSES, 4)
        found = [{"class": rng.choice(CLASSES), "score": rng.uniform(0.25, 1)} for _ in range(rng.randrange(8))]
        got = readings(found, counted, 0.6)
        best, parts = dict.fromkeys(counted, 0.0), 0
        for one in found:
            if one["class"] in best:
                best[one["class"]] = one["score"] if one["score"] > best[one["class"]] else best[one["class"]]
                parts += one["score"] >= 0.6
        assert got == {**best, ANY: sorted(best.values())[-1], PARTS: parts}


def test_a_crash_on_one_picture_leaves_it_unscored_and_the_next_one_scored(fake) -> None:  # type: ignore[no-untyped-def]
    fake("""
while True:
    picture = receive()
    if len(picture) > 3000:
        sys.stderr.write("out of memory, on purpose"); sys.exit(7)
    send({"found": [{"class": "BELLY_EXPOSED", "score": 0.9}, {"class": "ANUS_EXPOSED",
    "score": 0.75}, {"class": "ANUS_EXPOSED", "score": 0.3}]})
""")
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    with NudeNet(counted=("ANUS_EXPOSED",)) as judge:
        scores = judge.judge([sample(plain(), "a"), sample(noise, "b"), sample(plain(), "c")])
    assert [s.value for s in scores[:3]] == [s.value for s in scores[6:]] == [0.75, 0.75, 1.0]
    assert (
        all(math.isnan(s.value) for s in scores[3:6])
        and "ended with code 7: out of memory, on purpose" in scores[3].why
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("receive(); time.sleep(60)", "took longer than 0.5 s"),
        ("time.sleep(60)", "took longer than 0.5 s"),  # does not even read a picture that is larger than a pipe holds
        ("receive(); send(b'{nonsense')\nwhile True: receive()", "nonsense"),
        ("receive(); send([1, 2])\nwhile True: receive()", "nonsense"),
        ("receive(); sys.stdout.buffer.write(b'\\xff' * 8); sys.stdout.flush(); time.sleep(60)", "nonsense"),
        ("receive(); send({'error': 'ValueError: no'})\nwhile True: receive()", "cannot read it: ValueError: no"),
        ("receive(); send({})\nwhile True: receive()", "no detections"),
        ("receive(); send({'found': [{'class': 'ANUS_EXPOSED', 'score': float('nan')}]})\nwhile True: receive()",
        "cannot be read"),
        ("receive(); send({'found': [{'class': 'NEW', 'score': 0.5}]})\nwhile True: receive()", "cannot be read"),
        ("receive(); send({'found': ['ANUS_EXPOSED']})\nwhile True: receive()", "cannot be read"),
    ],
)  # fmt: skip
def test_no_answer_is_nan_with_a_reason_never_zero(fake, body: str, why: str) -> None:  # type: ignore[no-untyped-def]
    fake(body)
    noise = Image.frombytes("RGB", (256, 256), random.Random(0).randbytes(256 * 256 * 3))
    began = time.perf_counter()
    with NudeNet(timeout=0.5) as judge:
        scores = judge.judge([sample(noise)])
    assert all(math.isnan(s.value) and why in s.why for s in scores), scores
    assert time.perf_counter() - began < 8


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("after", ["sending", "reading"])
def test_an_interrupted_exchange_never_shifts_later_answers(
    fake, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException], after: str
) -> None:  # type: ignore[no-untyped-def]
    fake("""
while True:
    size = len(receive())
    send({"found": [{"class": "ANUS_EXPOSED", "score": 0.9 if size > 3000 else 0.3}]})
""")
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    with NudeNet(counted=("ANUS_EXPOSED",)) as judge:
        judge.judge([sample(plain(), "a")])
        (first,) = judge._children
        exactly = nudenet._exactly

        def interrupted(*args: object) -> bytes:
            if after == "reading":
                exactly(*args)  # type: ignore[arg-type]
            raise interruption

        monkeypatch.setattr(nudenet, "_exactly", interrupted)
        with pytest.raises(interruption):
            judge.judge([sample(noise, "b")])
        assert first.process.poll() is not None and not judge._children, "a child with an unread answer is ended"
        monkeypatch.setattr(nudenet, "_exactly", exactly)
        assert [s.value for s in judge.judge([sample(plain(), "c"), sample(noise, "d")])] == [
            0.3,
            0.3,
            0.0,
            0.9,
            0.9,
            1.0,
        ]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import sys; sys.exit(3)", "ended with code 3"),
        ("raise RuntimeError('no libGL')", "no libGL"),
        (HEAD.replace("ANUS_COVERED", "ANKLE"), "other classes"),
        (HEAD.replace("classes", "error"), "does not start"),
    ],
)
def test_a_process_that_does_not_start_is_an_error_not_a_score(fake, script: str, why: str) -> None:  # type: ignore[no-untyped-def]
    fake("", script)
    with pytest.raises(BadArtifact, match=why):
        NudeNet().judge([sample(plain())])


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudenet, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'genward\[nudenet\]'"):
        NudeNet().judge([sample(plain())])


def test_fields_are_checked() -> None:
    with pytest.raises(UnknownName, match="FEET_EXPOSED"):
        NudeNet(counted=("FEETS_EXPOSED",))
    for bad in (
        {"counted": ()},
        {"counted": ("ANUS_EXPOSED",) * 2},
        {"threshold": 0.1},
        {"edge": 300},
        {"timeout": 0.0},
    ):
        with pytest.raises(BadInput):
            NudeNet(**bad)
    with pytest.raises(BadArtifact, match="no weights"):
        NudeNet(model="/nowhere/640m.onnx").judge([sample(plain())])


def test_card_and_identity() -> None:
    judge = NudeNet(threshold=0.6)
    assert judge.card.labels[ANY] == {"threshold": 0.6} and judge.card.labels[PARTS] == {"threshold": 1.0}
    assert judge.card.facts["counted"] == list(judge.counted) and len(judge.card.facts["sha256"]) == 64
    assert "lacks sensitivity" in pooled_card((ANY,), judge.card.labels).why, "metrics must leave the rate uncorrected"
    assert judge_hash(judge) == judge_hash(NudeNet(threshold=0.6, timeout=5)) != judge_hash(NudeNet())
    assert Spec.from_json(Spec.of("judge", judge).to_json()).hash == Spec.of("judge", judge).hash
