"""The tokenizer files of llama2.c, and Meta's of Llama 3."""

import base64
import itertools
import struct
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hard_texts import hard_texts
from other_tokenizers import LLAMA3_PATTERN, llama3_json
from small_text import small_tokenizer

from camelid.errors import UserError
from camelid.tokenizer.load import load_tokenizer


@pytest.mark.parametrize("folder", ["llama-tokenizer", "stories15M"])
def test_llama2c_files_make_the_ids_of_the_model_that_they_were_made_from(folder: str, shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "models" / folder / "tokenizer.bin")
    original = sentencepiece.SentencePieceProcessor(
        model_file=str(shared_data / "models/llama-tokenizer/tokenizer.model")
    )
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (32_000, 1, 2, True)
    for text in hard_texts(2000, seed=15):
        assert tokenizer.encode(text) == original.encode(text)


def test_damaged_llama2c_files_are_refused(tmp_path: Path) -> None:
    vocabulary = small_tokenizer().vocabulary
    entries = [
        struct.pack("<fi", score, len(piece.encode())) + piece.encode()
        for piece, score in zip(vocabulary.pieces, vocabulary.scores, strict=True)
    ]
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(struct.pack("<i", 16) + b"".join(entries))
    assert load_tokenizer(tmp_path).encode("the llama") == small_tokenizer().encode("the llama")
    good = path.read_bytes()
    for damaged, message in (
        (b"", "0 pieces, where 259 are there"),
        (good[:-1], "cut off: piece 399 is"),
        (good[:7], "or cut off"),
        (good[:8] + struct.pack("<i", -1) + good[12:], "piece 0 is -1 bytes long"),
        (good[:8] + struct.pack("<i", 2**31 - 1) + good[12:], "piece 0 is 2,147,483,647 bytes long"),
        (good + struct.pack("<fi", float("inf"), 1) + b"\x01", "the score of its token '.x01' is inf"),
        (good + entries[-1], "names the token .* 2 times"),
        (good + struct.pack("<fi", 0, 1) + b"\xff", "can't decode"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            load_tokenizer(path)


def write_ranks(path: Path, tokens: list[bytes]) -> None:
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))


def small_ranks() -> list[bytes]:
    """The learnt pieces of the small tokenizer of Llama 3's kind as bytes, in the order of their ids."""
    engine = tokenizers.Tokenizer.from_str(llama3_json())
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    decode = {piece: engine.decoder.decode([piece]).encode() for piece in engine.get_vocab(with_added_tokens=False)}
    codes = {character: code for code, character in zip(byte_order(alphabet), alphabet, strict=True)}
    ordered = sorted(engine.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    assert decode
    return [bytes(codes[character] for character in piece) for piece, _ in ordered]


def byte_order(alphabet: list[str]) -> list[int]:
    """The byte that each character of GPT-2's alphabet stands for: itself, or the next of those that do not print."""
    hidden = iter([*range(0x21), *range(0x7F, 0xA1), 0xAD])
    return [ord(character) if ord(character) < 256 else next(hidden) for character in alphabet]


def encode_slowly(text: str, ranks: dict[bytes, int]) -> list[int]:
    """The obvious way: in each word, join the neighbours whose union has the lowest rank, the leftmost first."""
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), "isolated")
    ids = []
    for word, _ in cut.pre_tokenize_str(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            unions = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
            best = min(range(len(unions)), key=lambda place: unions[place])
            if unions[best] == len(ranks):
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def test_metas_llama3_file_joins_by_rank(tmp_path: Path) -> None:
    tokens = small_ranks()
    write_ranks(tmp_path / "tokenizer.model", tokens)
    tokenizer = load_tokenizer(tmp_path)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    assert len(ranks) == 1500
    for text in hard_texts(500, seed=16):
        ids = tokenizer.encode(text)
        assert ids == encode_slowly(text, ranks), repr(text)
        assert tokenizer.decode(ids) == text


def test_metas_llama3_file_has_its_control_tokens_behind_the_ranks(tmp_path: Path) -> None:
    write_ranks(tmp_path / "tokenizer.model", small_ranks())
    tokenizer = load_tokenizer(tmp_path)
    special = {name: index - 1500 for name, index in tokenizer.special_tokens.items()}
    assert tokenizer.vocab_size == 1500 + 256
    assert len(special) == 256
    # As in the published tokenizer.json of Llama 3.1, whose 128,000 ranks come first.
    assert (special["<|begin_of_text|>"], special["<|end_of_text|>"]) == (0, 1)
    assert (special["<|start_header_id|>"], special["<|end_header_id|>"]) == (6, 7)
    assert (special["<|eom_id|>"], special["<|eot_id|>"], special["<|python_tag|>"]) == (8, 9, 10)
    assert (special["<|reserved_special_token_0|>"], special["<|reserved_special_token_2|>"]) == (2, 5)
    assert special["<|reserved_special_token_247|>"] == 255
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1500, 1501)
    assert tokenizer.stop_ids == {1501, 1508, 1509}
    assert tokenizer.adds_bos


def test_damaged_llama3_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    for content, message in (
        (b"IQ== 0\nIQ== 1\n", "names the token '!' 2 times"),
        (b"IQ== 0\nIg== 7\n", "its line 2 is not of rank 1"),
        (b"IQ== 0\nI!== 1\n", "its line 2 is no base64"),
        (b"IQ== 0\n== 1\n", "empty|base64"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_tokenizer(path)


def test_a_whole_model_is_no_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="is a whole model; give its name where a model is asked for"):
        load_tokenizer(path)
