import hashlib
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_text import small_tokenizer, texts

from camelid.errors import UserError
from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.settings import Newlines, TokenizerSettings
from camelid.tokenizer.train import sample_texts, train_tokenizer

SETTINGS = TokenizerSettings(vocab_size=400)

# Numbers of protobuf fields in SentencePiece's sentencepiece_model.proto.
TRAINER_SPEC, NORMALIZER_SPEC = 2, 3
INPUT, MODEL_PREFIX, VOCAB_SIZE, NUM_THREADS = 1, 2, 4, 16
DEFAULT_WHERE_ABSENT = {6: 0, 7: b"text", 36: b"", 45: b"<unk>", 46: b"<s>", 47: b"</s>", 48: b"<pad>", 49: 0, 50: 0}


def read_message(data: bytes) -> dict[int, Any]:
    """The last value of each field of a protobuf message."""
    found: dict[int, Any] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            found[key >> 3] = varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        found[key >> 3] = data[position : position + size]
        position += size
    return found


def test_same_text_gives_the_same_bytes_in_other_folders_and_processes(tmp_path: Path) -> None:
    expected = hashlib.sha256(train_tokenizer(texts(), SETTINGS, seed=1)).hexdigest()
    program = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from small_text import texts\n"
        "from camelid.tokenizer.train import train_tokenizer\n"
        "from camelid.tokenizer.settings import TokenizerSettings\n"
        "model = train_tokenizer(texts(), TokenizerSettings(vocab_size=400), seed=1)\n"
        "print(hashlib.sha256(model).hexdigest())"
    )
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        output = subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parent)],
            cwd=tmp_path / name,
            env={**os.environ, "PYTHONHASHSEED": str(len(name)), "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert output.stdout.strip() == expected
        assert output.stderr == ""


def test_order_of_the_texts_does_not_matter() -> None:
    shuffled = texts()
    random.Random(3).shuffle(shuffled)
    assert train_tokenizer(shuffled, SETTINGS, seed=1) == train_tokenizer(texts(), SETTINGS, seed=1)


def test_the_model_file_has_the_flags_of_the_released_tokenizer(shared_data: Path) -> None:
    released = read_message((shared_data / "models/llama-tokenizer/tokenizer.model").read_bytes())
    ours = read_message(train_tokenizer(texts(), SETTINGS, seed=1))
    expected = read_message(released[TRAINER_SPEC])
    found = DEFAULT_WHERE_ABSENT | read_message(ours[TRAINER_SPEC])
    assert found[VOCAB_SIZE] == 400
    assert found[NUM_THREADS] == SETTINGS.num_threads
    assert not found.keys() & {INPUT, MODEL_PREFIX}
    free = {INPUT, MODEL_PREFIX, VOCAB_SIZE, NUM_THREADS}
    # Beyond field 50 lie options of differential privacy, which the released file lists as unused.
    compared = {field for field in expected if field <= 50} - free
    assert len(compared) > 30
    assert {field: found[field] for field in compared} == {field: expected[field] for field in compared}
    normalizer = read_message(ours[NORMALIZER_SPEC])
    assert normalizer == {key: value for key, value in read_message(released[NORMALIZER_SPEC]).items() if key != 6}


@pytest.mark.parametrize(("newlines", "is_in_pieces"), [("bytes", False), ("pieces", True)])
def test_line_breaks_are_bytes_or_parts_of_pieces(newlines: Newlines, is_in_pieces: bool) -> None:
    settings = TokenizerSettings(vocab_size=400, newlines=newlines)
    tokenizer = SentencePieceTokenizer(train_tokenizer(texts(), settings, seed=1))
    ids = tokenizer.encode("return self.model(x + 1)\n")
    assert (ids[-1] not in tokenizer.byte_ids) == is_in_pieces
    assert tokenizer.decode(ids) == "return self.model(x + 1)\n"


def test_too_large_a_vocabulary_is_refused_with_the_largest_that_works() -> None:
    with pytest.raises(
        UserError, match=r"vocab_size 100,000 is more than the text supports; set it to [\d,]+ or less"
    ) as e:
        train_tokenizer(texts(), TokenizerSettings(vocab_size=100_000), seed=1)
    largest = int(re.findall(r"[\d,]+ or less", str(e.value))[0].split()[0].replace(",", ""))
    model = train_tokenizer(texts(), TokenizerSettings(vocab_size=largest), seed=1)
    assert SentencePieceTokenizer(model).vocab_size == largest
    with pytest.raises(UserError):
        train_tokenizer(texts(), TokenizerSettings(vocab_size=largest + 1), seed=1)


def test_too_small_a_vocabulary_is_refused_with_the_smallest_that_works() -> None:
    with pytest.raises(
        UserError, match=r"vocab_size 265 is too small for the characters .* set it to \d+ or more"
    ) as e:
        train_tokenizer(texts(), TokenizerSettings(vocab_size=265), seed=1)
    smallest = int(re.findall(r"(\d+) or more", str(e.value))[0])
    tokenizer = SentencePieceTokenizer(train_tokenizer(texts(), TokenizerSettings(vocab_size=smallest), seed=1))
    assert tokenizer.vocab_size == smallest
    with pytest.raises(UserError):
        train_tokenizer(texts(), TokenizerSettings(vocab_size=smallest - 1), seed=1)


@pytest.mark.parametrize("nothing", [[], [""], [" \n\n\t", "  "]])
def test_no_text_is_refused(nothing: list[str]) -> None:
    with pytest.raises(UserError, match="no text to learn a tokenizer from"):
        train_tokenizer(nothing, SETTINGS, seed=1)


@pytest.mark.parametrize("newlines", ["bytes", "pieces"])
def test_lines_beyond_the_sentence_limit_are_learnt_from(newlines: Newlines) -> None:
    one_line = " ".join(text.replace("\n", " ") for text in texts()) + " \U0001f999" * 400
    settings = TokenizerSettings(vocab_size=400, newlines=newlines, character_coverage=1)
    tokenizer = SentencePieceTokenizer(train_tokenizer([one_line], settings, seed=1))
    assert len(tokenizer.encode("llama \U0001f999")) <= 4


def test_a_reserved_character_hides_no_text() -> None:
    marked = [text.replace(".\n", ".\u2585\n") for text in texts()]
    plain = small_tokenizer()
    tokenizer = SentencePieceTokenizer(train_tokenizer(marked, SETTINGS, seed=1))
    assert abs(len(tokenizer.encode(texts()[0])) - len(plain.encode(texts()[0]))) <= 2


def test_text_full_of_control_pieces_teaches_none() -> None:
    full = [text.replace(" ", " <s></s><unk><0x41> ") for text in texts()]
    tokenizer = SentencePieceTokenizer(train_tokenizer(full, SETTINGS, seed=1))
    ids = tokenizer.encode(full[0])
    assert tokenizer.decode(ids) == full[0]
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id} & set(ids)


def test_sample_is_bounded_and_depends_on_content_and_seed_alone() -> None:
    blocks = [f"{i:06} " * 100 for i in range(500)]
    sample = sample_texts(blocks, 70_000, seed=1)
    assert 60_000 < sum(map(len, sample)) <= 70_000
    assert sample_texts(reversed(blocks), 70_000, seed=1) == sample
    other = sample_texts(blocks, 70_000, seed=2)
    # Two independent samples of a fifth of the blocks share about a fifth of their blocks.
    assert 5 <= len(set(sample) & set(other)) <= 40


def test_memory_holds_the_sample_and_not_the_corpus() -> None:
    def texts_of_sixteen_megabytes() -> Iterator[str]:
        for i in range(2000):
            yield f"{i:08}" * 1000

    tracemalloc.start()
    sample = sample_texts(texts_of_sixteen_megabytes(), 100_000, seed=1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 500_000
    assert 90_000 < sum(map(len, sample)) <= 100_000
    assert max(int(block[:8]) for block in sample) > 1000, "late texts have the same chance as early ones"


def test_settings_are_imported_without_the_libraries_they_steer() -> None:
    program = (
        "import sys, camelid.tokenizer.settings, camelid.dataset.settings\n"
        "print(*{'sentencepiece', 'numpy', 'pyarrow', 'torch'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == ""
