"""The normalizer: what it undoes, what it must leave alone, and properties over arbitrary text."""

from __future__ import annotations

import string
import time
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.core.records import MAX_PROMPT
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops import code_points, dictionary, text_normal
from genward.ops.text_normal import designation, normalize

OWN = ("pistol", "handgun", "bomb", "knife", "dagger", "grenade", "sword")

PLAIN = {
    "ｂｏｍｂ": "bomb",
    "𝐛𝐨𝐦𝐛 in a box": "bomb in a box",
    "ⓑⓞⓜⓑ": "bomb",
    "🅱🅾🅼🅱": "BOMB",
    "bo\u200bmb": "bomb",
    "b\u00ado\u2060mb": "bomb",
    "\u202ebomb\u202c": "bomb",
    "a bоmb": "a bomb",
    "а bomb": "a bomb",
    "a рistоl": "a pistol",
    "a рist0l": "a pistol",
    "κnife": "knife",
    "ʙᴏᴍʙ": "bomb",
    "b0mb": "bomb",
    "B0MB": "BOMB",
    "kn1fe": "knife",
    "k1ll": "kill",
    "b1ade": "blade",
    "p1st0l": "pistol",
    "gr3n@de": "grenade",
    "[b0mb|kn1fe]": "[bomb|knife]",
    "(p1st0l:1.3)!": "(pistol:1.3)!",
    "the b o m b": "the bomb",
    "a b o m b here": "a bomb here",
    "p  i  s  t  o  l in": "pistol in",
    "p.i-s_t*o.l": "pistol",
    "p'i's't'o'l": "pistol",
    "g-u-n and b.o.m.b": "g-u-n and bomb",
    "pisssstol": "pistol",
    "boooomb": "bomb",
    "kniiiife": "knife",
    "piiiistooool": "pistol",
    "b\u0336o\u0336m\u0336b\u0336": "bomb",
    "b\u0300\u0301\u0302\u0303\u0304omb": "bomb",
    "bomb\ud800": "bomb",
    "bo\x00mb\x07": "bomb",
    "bomb\U000e0041": "bomb",
    "a\tb\nc": "a b c",
    "ᵖⁱˢᵗᵒˡ": "pistol",
}
"""Disguises that any word of the dictionary is read from."""

POLICY = {
    "p15+0l": "pistol",
    "hand9un": "handgun",
    "p1sto1": "pistol",
    "80m8": "bomb",
    "pıstol": "pistol",
    "pisŧøł": "pistol",
    "bömb": "bomb",
    "🅱omb": "bomb",
    "🇧🇴🇲🇧": "bomb",
    "B.O.M.B.": "BOMB.",
    "pis-tol": "pistol",
    "a catpistol": "a cat pistol",
    "<b0mb>": "<bomb>",
}
"""Disguises that could be an ordinary spelling, so that only the caller's words are read from them."""

BENIGN = [
    "",
    "a red apple on a table, 35mm, f/1.8, 4k, 8k uhd",
    "an mp3 player from the 1980s, 3d render, r2d2 and a 2nd robot, www.example.org",
    "Henry VIII and world war III, xxl, u.k., $5, 100%",
    "an oil painting of [horse|cow], (blue:1.2) sky, {day|night}, BREAK, AND, __animal__",
    "an old fisherman|trending on artstation|8k, boat+lake, cat++, a|b|c",
    "a c4d render, C3PO and BB-8, WALL-E, K-9, R5D4, H0 scale railway",
    "an F4U Corsair, a P51D Mustang, a B17G, T34s and B17s, P47s, MiG15s, M1A1 Abrams",
    "AK47s, AR15s, MP5K, M1911A1, G3A3, O5A gas mask",
    "art by @beeple and @greg_rutkowski, user@example.org, s3://bucket/a?b=c&d=1, user_name_01, img_0042.jpg",
    "PS5 controller, k3s cluster, i18n, h264, x86_64, T5XXL, sd15, 3dsmax, iPad4, serial A1B2, model 1a3b5c",
    "a <cat-toy> beside <s0me-t0y>, <midjourney_style>, <lora:add_detail:0.8>, EasyNegative5x, badhandv4x",
    "Wow!So pretty, 2+2=4, x+y=z, C++ and C#, R$5, US$20, 5€, AT&T, H&M",
    "U.S.A., N.A.S.A., B.B.C., J.R.R. Tolkien, e.g. a tree, R.E.M., S.H.I.E.L.D., S.O.S",
    "A B C D E F G alphabet blocks, x y z axes, a-b-c-d, Y M C A, a e i o u, 0 1 2 3",
    "soooo cute, aaah, brrr, hmmm, zzz, xxx",
    "a swordfish, a bombshell, gunmetal grey, state-of-the-art, T-shirt, x-ray, bee-keeper, half-timbered",
    "rock'n'roll, O'Neill, y'all, 'tis the '90s, Zoë's house",
    "1girl, 2boys, 1st, 2nd, 3rd, 4th, 50mm, 1/250s, ISO400, 16:9, 2x4s",
    "NaCl, Fe2O3, C6H12O6, H₂O, CO₂, m², ½, 25 ℃, № 5, ™, ®, …, Ⅷ, ①",
    "a café in Zürich, crème brûlée, smørrebrød, Łódź, İstanbul, Đorđe, Motörhead, jalapeño",
    "güzel bir kız, ışıklı şehir, sarı kedi, tatlı balık, ılık su, altın ağaç, kadın, adı",
    "[naɪf], /ˈbɒm/, ʃɪp, θɪŋ, bɪɡ, ɡɑːdn, pʰɪn, ʀɪʟ, tʰɛ",
    "λx.x, αβγ, μm, kΩ, Δt, π=3.14, β-carotene, the symbol β",
    "tiếng Việt: một quả táo đỏ",
    "ọ́jọ́, bẹ́ẹ̀, n̈, m̄",
    "красное яблоко на столе",
    "сосна и осёл у моря, нос, рот, сор, оса",
    "ένα κόκκινο μήλο πάνω στο τραπέζι",
    "Москва and Tokyo, Yандекс, Tシャツ",
    "تفاحة حمراء على الطاولة",
    "می\u200cخواهم کتاب\u200cها را بخوانم",
    "תפוח אדום על השולחן",
    "שָׁלוֹם עֲלֵיכֶם, שלום\u200f!",
    "मेज पर एक लाल सेब, क्\u200dष, क्\u200c",
    "แอปเปิ้ลสีแดงบนโต๊ะ, ภาษา\u200bไทย",
    "ភាសា\u200bខ្មែរ",
    "ᠮᠣᠩᠭᠣᠯ\u180b ᠬᠡ\u180eᠠ",
    "桌子上的红苹果, 葛\U000e0100城市",
    "テーブルの上の赤いリンゴ, ｶﾀｶﾅ, ＴＯＫＹＯ駅！",
    "테이블 위의 빨간 사과 ㅋㅋㅋ, \u1112\u1161\u11ab",
    "ձյունոտ լեռներ",
    "⠓⠑\u2800⠺",
    "👩\u200d👩\u200d👧 and ❤\ufe0f, 🇩🇪, 1\ufe0f\u20e3, ©\ufe0f, 🏳\ufe0f\u200d🌈, 🅱\ufe0flood, 🅿\ufe0f",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
]

INVISIBLE = [c for c in map(chr, range(0x110000)) if regex.match(r"\p{Default_Ignorable_Code_Point}", c)]


@pytest.mark.parametrize(("text", "wanted"), PLAIN.items())
def test_a_plain_disguise_is_undone_with_and_without_words_of_its_own(text: str, wanted: str) -> None:
    assert normalize(text) == wanted and normalize(text, words=OWN) == wanted


@pytest.mark.parametrize(("text", "wanted"), POLICY.items())
def test_what_could_be_a_spelling_is_undone_for_the_words_looked_for_alone(text: str, wanted: str) -> None:
    assert normalize(text) == text
    assert normalize(text, words=OWN) == wanted


@pytest.mark.parametrize("text", BENIGN)
def test_benign_text_of_any_script_comes_out_equal(text: str) -> None:
    assert normalize(text) == text
    assert normalize(text, words=OWN) == text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_neither_form_of_a_text_is_turned_into_the_other(form: str) -> None:
    for text in BENIGN:
        text = unicodedata.normalize(form, text)
        assert normalize(text, words=OWN) == text


def test_the_table_of_ignorable_characters_is_unicodes() -> None:
    assert [c for c in map(chr, range(0x110000)) if code_points.ignorable(c)] == INVISIBLE and len(INVISIBLE) > 4000


@pytest.mark.parametrize(
    "c", [*INVISIBLE[:40], *INVISIBLE[40::150], "\u2800", "\U0001d159", "\ufff9", "\ufffb", "\ufffc"]
)
def test_nothing_invisible_is_left_between_latin_letters(c: str) -> None:
    assert normalize(f"a b{c}o{c}m{c}b on a table{c}", words=OWN).rstrip() == "a bomb on a table"


def test_an_empty_cell_parts_words_and_not_letters() -> None:
    assert normalize("a\u2800red\u3164apple") == "a red apple"
    assert normalize("a b\u2800o\u2800m\u2800b") == "a bomb"


def test_own_words_are_read_with_their_plural_in_any_case_and_short_ones_are_not() -> None:
    assert normalize("two p15t0l5", words=("Pistol",)) == "two pistols"
    assert normalize("Gu9", words=("gug",)) == "Gug"
    assert normalize("x-y axis, g.u", words=("xy", "gu")) == "x-y axis, g.u"


def test_a_compound_is_cut_before_a_long_word_looked_for_alone() -> None:
    assert normalize("a cathandgun, catswords", words=OWN) == "a cat handgun, cat swords"
    for text in ("a watermark, a mailbox", "a swordfish", "a pistolero", "an xqzpistol"):
        assert normalize(text, words=(*OWN, "mark", "box")) == text


@pytest.mark.parametrize(
    "text",
    [
        "a bo\u2011mb",
        "a bo\u2014mb",
        "a b・o・m・b",
        "a b．o．m．b",
        "a b。o。m。b",
        "a b\u25ccomb",
        "a bo/mb",
    ]
    + [
        "a b\\o\\m\\b",
        "a b**o**mb",
        "a b__o__mb",
        "a b0\ufe0f\u20e3mb",
        "a b🅾\ufe0fmb",
        "a b०mb",
        "a b๐mb",
    ]
    + ["a ꓐꓳꓟꓐ", "a ᗷᗝmb", "a bოmb", "a bסmb", "a bⵔmb", "a bⲟmb", "a b\U0001042cmb", "a b\U0001030fmb"],
)
def test_signs_within_a_word_and_look_alikes_of_rare_scripts_are_undone_for_the_words_looked_for(text: str) -> None:
    found = normalize(text, words=OWN)
    assert found.lower() == "a bomb" and normalize(found, words=OWN) == found


@pytest.mark.parametrize(
    "text",
    [
        "[cow|horse], 16/9",
        "C:\\new\\cats",
        "a**b**c",
        "text __under__ line",
        "１０．５ m",
        "ꓡꓲꓢꓴ ꓐꓮ",
        "३ बिल्लियाँ",
        "๓ แมว",
        "סוס",
        "ოქრო",
    ],
)
def test_signs_and_rare_scripts_in_benign_texts_stay(text: str) -> None:
    assert normalize(text, words=OWN) == text


def test_a_dictionary_can_be_given() -> None:
    assert normalize("gr4k and b0mb", dictionary=("grak",)) == "grak and b0mb"
    assert normalize("gr4k", dictionary=()) == "gr4k"


def test_names_of_models_and_units_are_told_from_leetspeak() -> None:
    assert all(map(designation, ("1980s", "AK47s", "T34s", "C3PO1", "mp3", "B17", "p1")))
    assert not any(map(designation, ("b0mb", "p1st0l", "b00k", "bomb", "s3xy")))


def test_steps_can_be_chosen() -> None:
    text = "b0mb \u200bｂｏｍｂ bоmb b.o.m.b bommmb"
    assert normalize(text, steps=()) == text
    assert normalize(text, steps=("leet",)) == text.replace("b0mb", "bomb")
    assert normalize(text, steps=("unicode",)) == text.replace("ｂｏｍｂ", "bomb")
    assert normalize(text, steps=("invisible",)) == text.replace("\u200b", "")
    assert normalize(text, steps=("confusables",)) == text.replace("о", "o")
    assert normalize(text, steps=("spaced",)) == text.replace("b.o.m.b", "bomb")
    assert normalize(text, steps=("repeats",)) == text.replace("mmm", "m")


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="int"):
        normalize(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="leet"):
        normalize("x", steps=("leat",))
    monkeypatch.setenv("GENWARD_MINILM", "/nowhere")
    with pytest.raises(BadArtifact, match="GENWARD_MINILM"):
        dictionary.english.__wrapped__()


def test_the_longest_prompt_takes_no_time() -> None:
    normalize("b0mb")
    parts = (
        "a",
        "a.",
        "b0",
        "bооmb ",
        "\u200b",
        "ab ",
        "x\u0301\u0302\u0303",
        "a ",
        "b-",
        "a|",
        "aaab",
        "0 ",
        "b-0-",
        "\u2800a",
    )
    for part in parts:
        began = time.process_time()
        normalize(part * (MAX_PROMPT // len(part)), words=OWN)
        assert time.process_time() - began < 2, part


def test_tables_speak_of_single_letters() -> None:
    for table in (code_points.ALIKE, code_points.SMALL_CAPITALS, code_points.BOXED, code_points.OTHER_LATIN):
        assert all(
            len(k) == 1 and not k.isascii() and len(v) == 1 and v.isascii() and v.isalpha() for k, v in table.items()
        )
    for table in (text_normal.LEET, text_normal.RARE_LEET):
        assert all(len(k) == 1 and v and v.isascii() and v.isalpha() and v.islower() for k, v in table.items())
    assert set(code_points.IDENTICAL) <= set(code_points.ALIKE)


def test_the_dictionary_holds_english_words() -> None:
    words = dictionary.english()
    assert len(words) > 15_000 and {"pistol", "apple", "table"} <= words
    assert all(w.isascii() and w.isalpha() and w.islower() and len(w) >= dictionary.SHORTEST for w in words)


mixed = st.text(
    st.one_of(st.characters(), st.sampled_from("abo013$@!.- \u200b\u200d\ufe0f\u0301оаесβ𝐛🅱\u2800\u3164")), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(mixed)
def test_it_settles_and_leaves_nothing_hidden(text: str) -> None:
    once = normalize(text, words=OWN)
    assert normalize(once, words=OWN) == once
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Co") for c in once)
    once.encode("utf-8")


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        st.characters(
            categories=("L", "M", "N", "P", "Zs", "Sm", "So"),
            exclude_characters="".join(INVISIBLE) + "\u2800\ufffc\U0001d159",
        ),
        max_size=30,
    )
)
def test_what_has_no_word_of_the_lists_in_it_is_not_touched(text: str) -> None:
    assert normalize(text, words=OWN, dictionary=()) == text or any(
        w in normalize(text, words=OWN, dictionary=()).casefold() for w in OWN
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(string.ascii_letters + string.digits, min_size=2, max_size=9), max_size=8))
def test_only_words_of_the_dictionary_take_the_place_of_others(words: list[str]) -> None:
    found = normalize(" ".join(words)).split()
    assert len(found) == len(words)
    assert all(new == old or new.casefold() in dictionary.english() for new, old in zip(found, words, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(min_codepoint=0x0430, max_codepoint=0x044F), min_size=1, max_size=30))
def test_cyrillic_alone_stays(text: str) -> None:
    assert normalize(text, words=OWN) == text


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["bomb", "pistol", "dagger", "grenade", "handgun"]), st.data())
def test_any_mixture_of_tricks_is_undone(word: str, data: st.DataObject) -> None:
    leet = {letter: c for c, letters in text_normal.LEET.items() for letter in letters}
    alike = {"o": "о", "e": "е", "a": "а", "p": "р"}
    hidden = data.draw(st.sampled_from(["", "\u200b", "\u00ad", "\u0336", "\ufe0f", "\U000e0061"]))
    out = []
    for k, c in enumerate(word):
        forms = [c, chr(ord(c) + 0xFEE0), chr(0x1D41A + ord(c) - 97), alike.get(c, c)]
        forms += [leet.get(c, c)] if 0 < k < len(word) - 1 else []
        out.append(data.draw(st.sampled_from(forms)) + hidden)
    assert normalize("a " + "".join(out), words=OWN) == f"a {word}"
