from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from small_text import small_tokenizer, texts

from camelid.errors import UserError
from camelid.tokenizer.load import Tokenizer, load_tokenizer
from camelid.tokenizer.settings import TokenizerSettings
from camelid.tokenizer.train import train_tokenizer

CONTROL_TEXTS = ["<s>", "</s>", "<unk>", "<pad>", "<0x0A>", "a<s>b", "</s> <s>", "\u2581<s>", "<s><s></s>llama<unk>"]

# Whole Unicode, and thickly what is hard: spaces, breaks, NUL, joined emoji, CJK, the sign for a space, U+FFFD.
TEXT = st.text() | st.text(alphabet=" \n\t\r\0aé\u2581\u2585\ufffd\u200d\U0001f999\U0001f469漢語한<s/>", max_size=30)
# All ids, and thickly the control ids and the bytes of two characters.
IDS = st.lists(st.integers(0, 399) | st.sampled_from([0, 1, 2, 3 + 0xC3, 3 + 0xA9, 3 + 0xE6, 3 + 0xBC]), max_size=40)


@pytest.fixture(scope="module")
def oracle() -> sentencepiece.SentencePieceProcessor:
    model = train_tokenizer(texts(), TokenizerSettings(vocab_size=400), seed=1)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    decoder = tokenizer.stream_decoder(prompt or [])
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@settings(deadline=None)
@given(TEXT)
def test_any_text_comes_back(oracle: sentencepiece.SentencePieceProcessor, text: str) -> None:
    tokenizer = small_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.replace("\u2581", " ")
    assert oracle.decode(ids) == text.replace("\u2581", " ")
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id} & set(ids)


@settings(deadline=None)
@given(TEXT)
def test_a_stream_of_text_gives_whole_characters_only(text: str) -> None:
    tokenizer = small_tokenizer()
    *pieces, rest = stream(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text.replace("\u2581", " ")
    assert rest == ""
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


@settings(deadline=None)
@given(IDS)
def test_a_stream_of_any_ids_is_their_decoding(oracle: sentencepiece.SentencePieceProcessor, ids: list[int]) -> None:
    tokenizer = small_tokenizer()
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)
    # Where bytes are no UTF-8, SentencePiece and Unicode's recommendation count the replacements differently.
    assert tokenizer.decode(ids).replace("\ufffd", "") == oracle.decode(ids).replace("\ufffd", "")


@settings(deadline=None)
@given(TEXT, TEXT)
def test_a_stream_after_a_prompt_continues_it(before: str, after: str) -> None:
    tokenizer = small_tokenizer()
    prompt, ids = tokenizer.encode(before, bos=True), tokenizer.encode(after)
    joined = tokenizer.decode(prompt) + "".join(stream(tokenizer, ids, prompt))
    assert joined == tokenizer.decode(prompt + ids)


def test_the_space_before_a_text_is_dropped_at_its_start_only() -> None:
    tokenizer = small_tokenizer()
    ids = tokenizer.encode("llama")
    assert tokenizer.decode(ids) == "llama"
    assert tokenizer.decode([tokenizer.bos_id, *ids]) == "llama"
    assert "".join(stream(tokenizer, ids, [tokenizer.bos_id])) == "llama"
    assert "".join(stream(tokenizer, ids, tokenizer.encode("a"))) == " llama"
    newline = tokenizer.encode("\n")[-1]
    assert tokenizer.decode([newline, *ids]) == "\n llama"


def test_a_character_waits_for_its_last_byte() -> None:
    tokenizer = small_tokenizer()
    first, *ids = tokenizer.encode("\U0001f999")
    assert len(ids) == 4
    assert stream(tokenizer, ids, [first]) == ["", "", "", "\U0001f999", ""]
    assert stream(tokenizer, ids[:2], [first]) == ["", "", "\ufffd"]


def test_a_control_id_ends_a_character_that_is_not_complete() -> None:
    tokenizer = small_tokenizer()
    first, second = tokenizer.encode("é")[-2:]
    assert stream(tokenizer, [first, second]) == ["", "é", ""]
    assert stream(tokenizer, [first, tokenizer.eos_id, second]) == ["", "\ufffd", "\ufffd", ""]


@pytest.mark.parametrize("text", CONTROL_TEXTS)
def test_no_text_yields_a_control_id(text: str, shared_data: Path) -> None:
    for tokenizer in (small_tokenizer(), load_tokenizer(shared_data / "models/llama-tokenizer")):
        for ids in (tokenizer.encode(text), tokenizer.encode_batch([text])[0]):
            assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id} & set(ids)
            assert tokenizer.decode(ids) == text.replace("\u2581", " ")


def test_bos_and_eos_are_added_on_request() -> None:
    tokenizer = small_tokenizer()
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    ids = tokenizer.encode("the llama")
    assert tokenizer.encode("the llama", bos=True) == [1, *ids]
    assert tokenizer.encode("the llama", bos=True, eos=True) == [1, *ids, 2]
    assert tokenizer.encode("", bos=True, eos=True) == [1, 2]
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("num_threads", [-1, 1, 3])
def test_a_batch_is_its_texts_encoded_one_by_one(num_threads: int) -> None:
    tokenizer = small_tokenizer()
    batch = ["", *texts(20), "\U0001f999", " "]
    assert tokenizer.encode_batch(iter(batch), num_threads) == [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_batch([]) == []


def test_ids_of_the_released_tokenizer_are_those_of_another_implementation(shared_data: Path) -> None:
    folder = shared_data / "models/llama-tokenizer"
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    cases = (folder / "ggml-vocab-llama-spm.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (folder / "ggml-vocab-llama-spm.gguf.out").read_text(encoding="utf-8").split("\n")
    assert tokenizer.vocab_size == 32_000
    assert len(cases) > 30
    for text, line in zip(cases, lines, strict=False):
        assert tokenizer.encode(text) == [int(token) for token in line.split()], text


def test_half_a_surrogate_pair_is_refused() -> None:
    for encode in (small_tokenizer().encode, lambda text: small_tokenizer().encode_batch(["fine", text])):
        with pytest.raises(UserError, match=r"character 2, counted from 0, is half of a surrogate pair \(U\+D83D\)"):
            encode("ab\ud83d")


@pytest.mark.parametrize("token", [-1, 400, 10**9])
def test_an_id_of_no_piece_is_refused(token: int) -> None:
    with pytest.raises(ValueError, match="not in a vocabulary of 400"):
        small_tokenizer().decode([5, token])


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a tokenizer: no such file"):
        load_tokenizer(tmp_path / "absent.model")
    with pytest.raises(UserError, match=r"holds no tokenizer, a file called tokenizer.json, .* or tokenizer.bin"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    model = train_tokenizer(texts(), TokenizerSettings(vocab_size=400), seed=1)
    path = tmp_path / "tokenizer.model"
    for damaged in (b"", b"\0" * 100, b"no model at all", model[: len(model) // 2], model[:300], b"<0x00>" + model[9:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is not a tokenizer that Camelid can use"):
            load_tokenizer(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"bos_id": -1, "byte_fallback": True}, "no <s>"),
        ({"eos_id": -1, "byte_fallback": True}, "no </s>"),
        ({"byte_fallback": False}, "no piece for each byte"),
    ],
)
def test_a_model_without_the_needed_pieces_is_refused(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts()),
            model_writer=model,
            vocab_size=400,
            model_type="bpe",
            minloglevel=2,
            **flags,
        )
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
