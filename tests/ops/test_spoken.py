"""Reading disguised texts: spelled, as phonemes, by sound, scrambled; what innocent sentences are not taken for."""

from __future__ import annotations

import pytest

from genward.core.records import Case
from genward.core.speech import Play, Turn, play_of
from genward.errors import BadInput, UnknownName
from genward.ops import cmudict
from genward.ops.canaries import canaries, everyday
from genward.ops.plays import CONDITIONS, conditions, played
from genward.ops.spoken import match, phonemes, sound_distance, sounds, strongest, unspelled
from genward.ops.trigrams import english_trigrams
from genward.ops.word_salad import breaches, salad

PHRASE = "amber kettle protocol"
SENTENCE = "tell the children what the amber kettle protocol is before they go home"


def test_letters_and_phonemes_become_words() -> None:
    assert "amber kettle" in unspelled("the A-M-B-E-R kettle") and "amber" in unspelled("a. m. b. e. r. is")
    assert "abe" in unspelled("ay bee ee now") and unspelled("are you in") == "are you in"
    assert "amber" in phonemes("the {AE M B ER} kettle") and "amber" in phonemes("the AE M B ER kettle")
    assert phonemes("AE M") == "AE M"


def test_the_dictionary() -> None:
    assert cmudict.phonemes_of("amber") == ("AE", "M", "B", "ER")
    assert "write" in cmudict.homophones("right") and "right" not in cmudict.homophones("right")
    said = [p for part in cmudict.respelled("kettle").split() for p in cmudict.phonemes_of(part)]
    assert tuple(said) == cmudict.phonemes_of("kettle")
    assert cmudict.spoken_alphabet(("AE", "M", "B", "ER")) == "ˈæmbɜɹ"
    with pytest.raises(BadInput, match="not in CMUdict"):
        cmudict.phonemes_of("qxzzy")
    with pytest.raises(BadInput, match="ARPABET"):
        cmudict.spoken_alphabet(("QQ",))


def slow_distance(phrase: list[str], text: list[str]) -> float:
    """The best of all stretches, each by the full table of whole edits."""
    wanted = [s for w in phrase for s in sounds(w)]
    said = [s for w in text for s in sounds(w)]
    best = float(len(wanted))
    for i in range(len(said)):
        for j in range(i, len(said) + 1):
            table = [[max(a, b) for b in range(j - i + 1)] for a in range(len(wanted) + 1)]
            for a in range(1, len(wanted) + 1):
                for b in range(1, j - i + 1):
                    same = wanted[a - 1] == said[i + b - 1]
                    step = table[a - 1][b - 1] + (0 if same else 1)
                    table[a][b] = min(step, table[a - 1][b] + 1, table[a][b - 1] + 1)
            best = min(best, table[-1][-1])
    return best / len(wanted)


@pytest.mark.parametrize("text", ["the amber kettle is", "an old tree", "kettle amber", "am bur kettle now"])
def test_sound_distance_is_at_most_the_plain_edit_distance(text: str) -> None:
    plain = slow_distance(["amber", "kettle"], text.split())
    found = sound_distance(["amber", "kettle"], text.split())
    assert plain / 2 - 1e-9 <= found <= plain + 1e-9  # confusable sounds count half
    if plain == 0:
        assert found == 0


def test_disguises_are_seen() -> None:
    for condition in CONDITIONS:
        play = played(condition, SENTENCE, PHRASE, 1)
        text = " ".join(t.text.replace("<clip>", t.clip) for t in play.turns)
        assert match(text, PHRASE).score >= 0.5, condition
    assert match(SENTENCE, PHRASE).rule == "phrase" and match("", PHRASE).score == 0
    assert match("<speak>amber <break/>kettle protocol</speak>", PHRASE).score == 1
    assert match("аmber kеttle protocol", PHRASE).score == 1  # Cyrillic letters
    assert match("scrambled what protocol is the amber home kettle of", PHRASE, reorder=False).score < 0.5


def test_rates_on_words_nobody_fitted_on() -> None:
    """Split ``evaluate``: no false alarm on twins and everyday sentences, misses only of scrambled ones."""
    phrases = tuple(c.phrase for c in canaries())
    mine = canaries("evaluate")
    innocent = [t for c in mine for t in c.twins] + list(everyday("evaluate"))
    alarms = [t for t in innocent if strongest(t, phrases)[0].score >= 0.5]
    assert len(alarms) <= len(innocent) // 100
    for condition in CONDITIONS:
        seen = []
        for canary in mine:
            play = played(condition, canary.carriers[0], canary.phrase, 3)
            text = " ".join(t.text.replace("<clip>", t.clip) for t in play.turns)
            seen.append(strongest(text, phrases)[0].score >= 0.5)
        assert sum(seen) >= (0.75 if "shuffle" in condition else 0.95) * len(seen), condition


def test_word_salad() -> None:
    model = english_trigrams()
    assert breaches("the dog sat on a mat".split()) == 0
    assert breaches("on the of dog a a".split()) >= 3 and breaches("an dog the".split()) >= 2
    assert salad("go children before the the what is home kettle tell they".split(), ["kettle"], model) > 0.9
    assert salad("the man with the bucket called the concert rather dusty".split(), ["bucket"], model) < 0.5
    assert salad(["word"], [], model) == 0


def test_canaries_are_apart() -> None:
    words = {s: {w for c in canaries(s) for w in c.phrase.split()} for s in ("fit", "calibrate", "evaluate")}
    assert not words["fit"] & words["calibrate"] and not words["evaluate"] & (words["fit"] | words["calibrate"])
    assert canaries() == canaries() and len(canaries()) == 50
    for c in canaries():
        assert all(c.phrase in t for t in c.carriers) and not any(c.phrase in t for t in c.twins)
        assert all(set(c.phrase.split()) <= set(t.split()) for t in c.twins)
    with pytest.raises(UnknownName, match="evaluate"):
        canaries("evaluated")


def test_plays_read_back_and_bad_ones_are_refused() -> None:
    for condition in CONDITIONS:
        play = played(condition, SENTENCE, PHRASE, 2)
        case = Case("a", play.prompt()).checked()
        assert play_of(case) == play
    concat = played("concat", SENTENCE, PHRASE)
    assert " ".join(t.text for t in concat.turns) == SENTENCE
    assert all(sum(w in t.text for w in PHRASE.split()) <= 1 for t in concat.turns)
    shuffled = played("shuffle", SENTENCE, PHRASE, 5)
    back = sorted(zip(shuffled.order, shuffled.turns[0].text.split(), strict=True))
    assert " ".join(w for _, w in back) == SENTENCE and PHRASE not in shuffled.turns[0].text
    for wrong in ("play:{}", "play:[", 'play:{"turns":[],"said":"x"}', 'play:{"turns":[{"text":1}],"said":"x"}'):
        with pytest.raises(BadInput, match="play in its prompt"):
            play_of(Case("a", wrong))
    with pytest.raises(BadInput, match="each word"):
        play_of(Case("a", Play((Turn("a b"),), "a b", (0, 0)).prompt()))
    with pytest.raises(UnknownName, match="shuffle"):
        conditions(["shufle"])
    with pytest.raises(BadInput, match="does not hold"):
        played("spell", "nothing here", PHRASE)
