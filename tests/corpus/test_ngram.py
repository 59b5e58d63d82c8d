"""Kneser-Ney probabilities: against the definition computed the obvious way, against sums that must be 1, and lmplz."""

import gzip
import math
import os
import random
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import kenlm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.corpus.ngram import FALLBACK_DISCOUNTS, NgramFacts, estimate
from camelid.errors import UserError

Model = dict[tuple[str, ...], tuple[float, float]]


def _read_arpa(path: Path) -> Model:
    """Log probability and backoff of each n-gram."""
    model: Model = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        log, *rest = line.split("\t")
        if rest:
            model[tuple(rest[0].split(" "))] = (float(log), float(rest[1]) if len(rest) > 1 else 0.0)
    return model


def _estimate(
    folder: Path, sentences: Sequence[Sequence[str]], order: int, memory_bytes: int = 1 << 30
) -> tuple[Model, NgramFacts]:
    path = folder / f"{order}-{memory_bytes}.arpa"
    facts = estimate(sentences, path, order=order, memory_bytes=memory_bytes, folder=folder / "sorting")
    assert not (folder / "sorting").exists()
    return _read_arpa(path), facts


def _discounts(counts: Counter[tuple[str, ...]]) -> tuple[float, float, float]:
    n = Counter(counts.values())
    if all(n[k] for k in (1, 2, 3)):
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        if all(0 <= d <= k for k, d in enumerate(found, start=1)):
            return found  # type: ignore[return-value]
    return FALLBACK_DISCOUNTS


def _brute_force(sentences: Sequence[Sequence[str]], order: int) -> Model:
    """The textbook, with dictionaries, from all n-grams of all orders."""
    raw: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order + 1)]
    for sentence in sentences:
        words = ("<s>", *sentence, "</s>")
        for n in range(1, order + 1):
            raw[n].update(words[i : i + n] for i in range(len(words) - n + 1))
    adjusted = [Counter[tuple[str, ...]]() for _ in range(order + 1)]
    adjusted[order] = raw[order]
    for n in range(1, order):
        for gram in raw[n + 1]:
            if gram[1] != "<s>":
                adjusted[n][gram[1:]] += 1
        adjusted[n].update({gram: count for gram, count in raw[n].items() if gram[0] == "<s>" and n > 1})
    vocabulary = {gram[0] for gram in raw[1]} - {"<s>"} | {"<unk>"}
    probabilities: dict[tuple[str, ...], float] = {}
    left: dict[tuple[str, ...], float] = {}
    for n in range(1, order + 1):
        discount = (0.0, *_discounts(adjusted[n]))
        by_context: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
        for gram in adjusted[n]:
            by_context[gram[:-1]].append(gram)
        for context, grams in by_context.items():
            total = sum(adjusted[n][gram] for gram in grams)
            left[context] = sum(discount[min(adjusted[n][gram], 3)] for gram in grams) / total
            for gram in grams:
                count = adjusted[n][gram]
                lower = probabilities[gram[1:]] if n > 1 else 1 / len(vocabulary)
                probabilities[gram] = (count - discount[min(count, 3)]) / total + left[context] * lower
    probabilities["<unk>",] = left[()] / len(vocabulary)
    probabilities["<s>",] = 1.0
    return {
        gram: (math.log10(p), math.log10(left[gram]) if left.get(gram) else 0.0) for gram, p in probabilities.items()
    }


def _assert_equal(found: Model, wanted: Model, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for gram, (log, backoff) in wanted.items():
        assert found[gram][0] == pytest.approx(log, abs=tolerance), gram
        assert found[gram][1] == pytest.approx(backoff, abs=tolerance), gram


def _random_sentences(number: int, num_words: int, seed: int = 5) -> list[list[str]]:
    rng = random.Random(seed)
    words = [f"w{n}" for n in range(num_words)]
    weights = [1 / (n + 1) for n in range(num_words)]
    return [rng.choices(words, weights, k=rng.randrange(1, 12)) for _ in range(number)]


@pytest.mark.parametrize("order", [2, 3, 5])
def test_probabilities_are_the_textbooks(tmp_path: Path, order: int) -> None:
    sentences = _random_sentences(300, 900)
    found, facts = _estimate(tmp_path, sentences, order)
    _assert_equal(found, _brute_force(sentences, order), 2e-7)
    assert sum(facts.num_ngrams) == len(found)
    assert len(facts.fallback_orders) < order  # so that computed discounts are compared too


@settings(max_examples=30, deadline=None)
@given(
    sentences=st.lists(st.lists(st.sampled_from(["a", "b", "c", "ü"]), max_size=6), min_size=1, max_size=8),
    order=st.integers(2, 4),
)
def test_small_texts_fall_back(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[str]], order: int
) -> None:
    found, _ = _estimate(tmp_path_factory.mktemp("small"), sentences, order)
    _assert_equal(found, _brute_force(sentences, order), 2e-7)


def test_little_memory_gives_the_same_bytes(tmp_path: Path) -> None:
    sentences = _random_sentences(6000, 300)
    _estimate(tmp_path, sentences, 4)
    _estimate(tmp_path, sentences, 4, memory_bytes=1 << 20)
    assert (tmp_path / f"4-{1 << 30}.arpa").read_bytes() == (tmp_path / f"4-{1 << 20}.arpa").read_bytes()


def test_kenlm_reads_it_and_probabilities_add_up_to_one(tmp_path: Path) -> None:
    sentences = _random_sentences(300, 40)
    found, _ = _estimate(tmp_path, sentences, 3)
    model = kenlm.Model(str(tmp_path / f"3-{1 << 30}.arpa"))
    words = [gram[0] for gram in found if len(gram) == 1 and gram[0] != "<s>"]
    for context in (["w0"], ["w1", "w0"], ["never", "seen"]):
        scores = [
            list(model.full_scores(" ".join([*context, word]), eos=False))[-1][0] for word in words if word[0] == "w"
        ]
        ends = [list(model.full_scores(" ".join(context)))[-1][0]]
        unknown = [list(model.full_scores(" ".join([*context, "other"]), eos=False))[-1][0]]
        assert sum(10**score for score in scores + ends + unknown) == pytest.approx(1, abs=1e-5)


def test_words_that_look_like_marks_are_left_out(tmp_path: Path) -> None:
    sentences = _random_sentences(50, 9)
    dirty = [["<s>", *sentence, "</s>", "<unk>"] for sentence in sentences]
    (tmp_path / "dirty").mkdir()
    assert _estimate(tmp_path, sentences, 3)[0] == _estimate(tmp_path / "dirty", dirty, 3)[0]


def test_no_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no words"):
        _estimate(tmp_path, [], 3)


@pytest.mark.slow
def test_equals_lmplz(tmp_path: Path, shared_data: Path) -> None:
    """CAMELID_LMPLZ names lmplz, or it is built from kenlm's source package (docs/corpus.md says with what)."""
    text = gzip.decompress((shared_data / "text" / "tinyshakespeare.txt.gz").read_bytes()).decode().lower()
    sentences = [line.split() for line in text.splitlines() if line.strip()]
    lmplz = os.environ.get("CAMELID_LMPLZ") or shutil.which("lmplz") or _build_lmplz(tmp_path)
    found, _ = _estimate(tmp_path, sentences, 5, memory_bytes=1 << 23)
    done = subprocess.run(
        [lmplz, "-o", "5", "--discount_fallback", "-S", "200M", "-T", str(tmp_path)],
        input="".join(" ".join(sentence) + "\n" for sentence in sentences),
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "lmplz.arpa").write_text(done.stdout, encoding="utf-8")
    _assert_equal(found, _read_arpa(tmp_path / "lmplz.arpa"), 1e-5)


def _build_lmplz(folder: Path) -> str:
    import sys
    from importlib.metadata import version

    package = f"kenlm=={version('kenlm')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "kenlm", package]
    subprocess.run([*pip, "--dest", str(folder)], check=True)
    (archive,) = folder.glob("kenlm-*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    build = source / "build"
    subprocess.run(["cmake", "-DCMAKE_BUILD_TYPE=Release", "-S", str(source), "-B", str(build)], check=True)
    subprocess.run(["cmake", "--build", str(build), "--target", "lmplz"], check=True)
    return str(build / "bin" / "lmplz")
