"""What a moderated speech service is sent by mistake or on purpose: odd sounds, odd texts, many sessions at once."""

from __future__ import annotations

import io
import threading
import tracemalloc
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from genward import protect
from genward.core.media import Audio
from genward.core.records import Case
from genward.core.speech import Heard
from genward.defenses.speech_moderation import Moderator, SpeechModeration
from genward.errors import BadInput
from genward.ops.ears import ear
from genward.speech.changes import CHANGES, changed
from genward.speech.service import SpeechModel

PHRASE = ("purple teapot",)


@pytest.fixture(scope="module")
def service() -> SpeechModel:
    return SpeechModel.opened("lab.speech")


def wav(seconds: float = 0.5, rate: int = 8_000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\x10\x01" * round(seconds * rate) * channels)
    return out.getvalue()


def test_files_that_are_no_sound_are_named() -> None:
    whole = wav()
    for data in (b"", b"junk", b"ID3\x04" + bytes(500), whole[:20], whole[:44], whole.replace(b"WAVE", b"WOVE")):
        with pytest.raises(BadInput, match="WAV|samples of shape"):
            Audio.decoded(data)
    for cut in (len(whole) // 2, len(whole) - 2):
        with pytest.raises(BadInput, match="cut short"):
            Audio.decoded(whole[:cut])
    streamed = whole[:40] + b"\xff\xff\xff\xff" + whole[44:]  # a server that did not know the length
    assert Audio.decoded(streamed) == Audio.decoded(whole)
    stereo = Audio.decoded(wav(channels=2))
    assert stereo.channels == 2 and Audio.decoded(wav(rate=11_025)).rate == 11_025


def test_ten_minutes_are_the_most_and_silence_says_nothing() -> None:
    assert ear().hear(Audio(np.zeros(600 * 1_000, np.float32), 1_000)).text == ""
    for rate in (1_000, 48_000):
        with pytest.raises(BadInput, match="cut it"):
            ear().hear(Audio(np.zeros(601 * rate, np.float32), rate))
    silence = Audio(np.zeros(8_000, np.float32), 8_000)
    for name in CHANGES:
        assert np.isfinite(changed(silence, name).samples).all(), name


SPEAK = '<speak version="1.1"><prosody rate="x-fast">{}</prosody></speak>'
INJECTED = (
    SPEAK.format("see the purple<break time='2s'/> teapot"),
    SPEAK.format('see the <sub alias="purple teapot">green thing</sub>'),
    SPEAK.format("see the pur<!-- a remark -->ple tea<mark name='x'/>pot"),
    SPEAK.format('see the <say-as interpret-as="characters">purple</say-as> teapot'),
    "see the &#112;urple teapot",
    "see the <phoneme alphabet='ipa' ph='ˈpɜɹpəl'>x</phoneme> teapot",
)


@pytest.mark.parametrize("text", INJECTED)
def test_markup_hides_nothing(text: str) -> None:
    moderate = Moderator(SpeechModeration(phrases=PHRASE))
    assert moderate(Heard("T0", text, Case("s", "x"), "s", 0, 1)) is not None
    calm = text.replace("purple", "old").replace("&#112;urple", "old").replace("pur<", "o<").replace(">ple", ">ld")
    calm = calm.replace("ˈpɜɹpəl", "oʊld")
    assert moderate(Heard("T0", calm, Case("t", "x"), "t", 0, 1)) is None


def test_other_scripts_and_control_characters(service: SpeechModel) -> None:
    guard = SpeechModeration(phrases=PHRASE, taps=("T0", "T2"))
    with protect(service, defenses=[guard]) as guarded:
        for text in ("紫色的茶壶", "фиолетовый чайник", "\u202eelprup\u202c \x07", "🫖" * 50, "إبريق شاي"):
            found = guarded.speak(text)
            assert found.status in ("ok", "refused", "error") and (found.audio is None) == (found.status != "ok")
        assert guarded.speak("the рurрle teapоt").status == "refused"  # Cyrillic letters in it
        for wrong in ("", " \n ", "x" * 2_001, "a \x00 b"):
            with pytest.raises(BadInput, match="characters|zero byte"):
                guarded.speak(wrong)


def test_a_thousand_sessions_at_once_do_not_hear_each_other() -> None:
    """Each session says the first half of the phrase; every second one also the other half."""
    moderate = Moderator(SpeechModeration(phrases=PHRASE, reorder=False))
    ready = threading.Barrier(8)

    def turn(session: int, k: int, text: str) -> bool:
        return moderate(Heard("T0", text, Case("c", "x"), f"s{session}", k, 2)) is not None

    def worker(part: int) -> list[tuple[int, bool]]:
        ready.wait()
        mine = range(part, 1_000, 8)
        assert not any(turn(s, 0, "the purple") for s in mine)
        return [(s, turn(s, 1, "teapot is" if s % 2 else "cup is")) for s in mine]

    with ThreadPoolExecutor(8) as pool:
        found = dict(pair for part in pool.map(worker, range(8)) for pair in part)
    assert len(found) == 1_000 and all(refused == bool(session % 2) for session, refused in found.items())


@pytest.mark.slow
def test_ten_thousand_requests_leave_no_more_than_one_thousand() -> None:
    moderate = Moderator(SpeechModeration(phrases=PHRASE, reorder=False, fragments=2))
    moderate.moderate.buffer.sessions = 200
    held = []
    tracemalloc.start()
    try:
        for k in range(10_000):
            moderate(Heard("T0", f"request {k} about a cup", Case("c", "x"), f"s{k}", 0, 1))
            if k % 1_000 == 999:
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[-1] < 1.5 * held[2] + 1_000_000, held
