"""Findings: exact, by sound, shuffled, by pattern; decisions and redaction."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.errors import BadInput
from genward.speech.matching import Finding, Matcher, around, counted, decided, findings, redacted, written
from genward.speech.policies import SpeechPolicy, parse_speech_policies
from genward.speech.readings import Reading

pytestmark = pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs genward[speech]")
PHRASE = "amber kettle protocol"
POLICY = SpeechPolicy("canaries", phrases=(PHRASE, "cotton rocket method"))


def best(text: str, policy: SpeechPolicy = POLICY) -> Finding | None:
    found = counted(findings(text, [policy]))
    return found[0] if found else None


@pytest.mark.parametrize(
    "text",
    [
        "read the Amber, Kettle: protocol!",
        "the amber kettles' protocols",
        "the amber uh kettle um protocol",
        "4mb3r k3ttl3 pr0t0c0l",
        "a m b e r k e t t l e p r o t o c o l",
        "the amber kay ee double tee el ee protocol",
        "amber K EH T AH L protocol",
        "<speak>amber <break/>kettle <sub alias='protocol'>p</sub></speak>",
        "amber. Kettle. Protocol.",
    ],
)
def test_phrases_are_found_in_any_reading(text: str) -> None:
    found = best(text)
    assert found is not None and found.phrase == PHRASE and found.kind == "phrase" and found.score == 1.0


def test_phrases_are_found_by_sound_and_in_another_order() -> None:
    by_sound = best("please read the ambur ketl protakol aloud")
    assert by_sound is not None and by_sound.kind == "sound" and by_sound.span is None
    shuffled = best("everyone kettle the reads before amber lunch protocol")
    assert shuffled is not None and shuffled.kind == "order" and shuffled.score > 0.9
    assert best("protocol amber kettle") is not None  # side by side


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the protocol for the kettle is amber",
        "is the kettle in the protocol really amber or not",
        "an amber lamp hung over the kettle while the protocol was read",
        "amber kettle",
        "she bought a cotton shirt. The rocket took off. It was a new method",
        "the umber metal portal",
    ],
)
def test_twins_are_left_alone(text: str) -> None:
    assert best(text) is None


def test_reorder_and_window_are_the_policys() -> None:
    text = "everyone kettle the reads before amber lunch protocol"
    assert best(text, SpeechPolicy("p", phrases=(PHRASE,), reorder=False)) is None
    assert best(text, SpeechPolicy("p", phrases=(PHRASE,), window=6)) is None
    assert best(text, SpeechPolicy("p", phrases=(PHRASE,), window=7)) is not None


def test_scripts_without_spaces_and_other_languages() -> None:
    policy = SpeechPolicy("zh", ("zh",), ("琥珀水壶",))
    assert best("请说琥珀水壶吧", policy) is not None and best("琥 珀-水/壶", policy) is not None
    found = best("水壶琥珀", policy)
    assert found is not None and found.kind == "order"
    assert best("琥珀很好看 我们昨天在河边喝水 然后放下壶", policy) is None
    german = SpeechPolicy("de", ("de",), ("bernstein kessel",))
    assert best("der Bernstein-Kessel", german) is not None and best("burn stine kessel", german) is None


def test_crowds_of_windows_are_not_let_through() -> None:
    text = "the protocol for the kettle is amber. " * 40
    assert findings(text, [POLICY])[0].score == 0.75


def test_patterns() -> None:
    (policy,) = parse_speech_policies("[[policies]]\nid = 'n'\npatterns = ['kettle number \\d{1,4}']")
    found = best("Kettle, number 12!", policy)
    assert found is not None and (found.kind, found.phrase) == ("pattern", r"kettle number \d{1,4}")
    assert best("kettle number twelve", policy) is None


def test_decisions() -> None:
    mild = SpeechPolicy("mild", phrases=("cotton rocket method",), action="redact")
    strict = SpeechPolicy("strict", phrases=(PHRASE,), action="review")
    quiet = SpeechPolicy("quiet", phrases=("velvet wallet uniform",), action="allow")
    policies = [mild, strict, quiet]

    def action(text: str) -> str:
        return decided(findings(text, policies))

    assert action("hello") == "allow" and action("the velvet wallet uniform") == "allow"
    assert action("the cotton rocket method") == "redact" and action(f"a cotton rocket method and {PHRASE}") == "review"
    assert action("c o t t o n rocket method") == "refuse"  # it cannot be cut out
    text = "The Cotton-rocket method, twice: cotton rocket methods."
    assert redacted(text, findings(text, policies)) == "The [redacted], twice: [redacted]."
    with pytest.raises(BadInput, match="refuse the text"):
        redacted(PHRASE, findings(PHRASE, policies))
    assert written(PHRASE).search("xamber kettle protocol") is None
    with pytest.raises(BadInput, match="two policies"):
        findings("x", [mild, mild])


def test_redacted_text_has_nothing_left() -> None:
    policy = SpeechPolicy("p", phrases=(PHRASE,), action="redact")
    text = f"so {PHRASE} and AMBER  kettle, protocol's end"
    assert not counted(findings(redacted(text, findings(text, [policy])), [policy]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*PHRASE.split(), "the", "is", ".", "uh", "x"]), max_size=14))
def test_scores_are_scores_and_exact_rows_are_found(words: list[str]) -> None:
    found = MATCHER()(" ".join(words))
    assert all(0 < f.score <= 1 for f in found)
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    bare = " ".join(w for w in words if w not in (".", "uh"))
    exact = any(f.kind == "phrase" for f in found)
    assert exact is (f" {PHRASE} " in f" {bare} ")


def MATCHER() -> Matcher:
    if not hasattr(MATCHER, "made"):
        MATCHER.made = Matcher([POLICY])  # type: ignore[attr-defined]
    made: Matcher = MATCHER.made  # type: ignore[attr-defined]
    return made


def test_stretches_widen_to_sentence_ends() -> None:
    reading = Reading(tuple("abcdefgh"), frozenset({2, 6}))
    assert around(reading, 3, 5) == (2, 6) and around(reading, 1, 3) == (0, 6) and around(reading, 2, 6) == (2, 6)
    low, high = around(Reading(("a",) * 100), 50, 52)
    assert high - low == 32 and low < 50 and high > 52
