"""Tokenizers written for others, and what others make of them."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hard_texts import hard_texts
from other_tokenizers import LLAMA3_TEMPLATE, ZEPHYR_TEMPLATE, smollm2, smollm2_metadata, write_llama3_folder
from small_text import small_tokenizer, texts
from transformers import AutoTokenizer

from camelid.checkpoint.gguf import read_metadata
from camelid.errors import UserError
from camelid.tokenizer.export import to_gguf_metadata, write_huggingface
from camelid.tokenizer.gguf_vocabulary import load_gguf_vocabulary
from camelid.tokenizer.huggingface import Companions, load_tokenizer_json
from camelid.tokenizer.interface import Tokenizer
from camelid.tokenizer.load import load_tokenizer
from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.settings import Newlines, TokenizerSettings
from camelid.tokenizer.train import train_tokenizer

NUM_TEXTS = 1_500
NUM_SLOW_TEXTS = 100_000


@cache
def own_tokenizer(newlines: Newlines) -> SentencePieceTokenizer:
    """Trained on hard texts too, so that runs of any character become pieces."""
    settings = TokenizerSettings(vocab_size=1500, character_coverage=0.98, newlines=newlines)
    return SentencePieceTokenizer(
        train_tokenizer([*texts(), *hard_texts(3000, seed=9)], settings, seed=1), chat_template=ZEPHYR_TEMPLATE
    )


def assert_equal_facts(found: Tokenizer, expected: Tokenizer) -> None:
    """Everything but the library that runs it."""
    names = ("vocab_size", "bos_id", "eos_id", "has_bos", "stop_ids", "special_tokens", "adds_bos", "chat_template")
    for name in names:
        assert getattr(found, name) == getattr(expected, name), name


def assert_equal_ids(texts: Sequence[str], found: Sequence[list[int]], expected: Sequence[list[int]]) -> None:
    for text, ids, right in zip(texts, found, expected, strict=True):
        assert ids == right, repr(text)


def check_with_transformers(tokenizer: Tokenizer, folder: Path, count: int) -> None:
    """Ids, BOS and decoded text that transformers makes with the files that we write."""
    write_huggingface(tokenizer, folder)
    other = AutoTokenizer.from_pretrained(folder)
    plain = [text for text in hard_texts(count, seed=10) if not any(name in text for name in tokenizer.special_tokens)]
    assert_equal_ids(plain, other(plain, add_special_tokens=False).input_ids, tokenizer.encode_batch(plain))
    for text in plain[:200]:
        ids = tokenizer.encode(text, bos=tokenizer.adds_bos)
        assert other(text).input_ids == ids
        decoded = str(other.decode(ids, skip_special_tokens=True))
        # Where bytes are no UTF-8, as in what SmolLM2 cannot write, replacements are counted differently.
        assert decoded.replace("\ufffd", "") == tokenizer.decode(ids).replace("\ufffd", "")
    assert (other.bos_token_id, other.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert len(other) == tokenizer.vocab_size


@pytest.mark.parametrize("newlines", ["bytes", "pieces"])
def test_transformers_makes_the_same_of_our_own_tokenizer(newlines: Newlines, tmp_path: Path) -> None:
    check_with_transformers(own_tokenizer(newlines), tmp_path, NUM_TEXTS)


def test_transformers_makes_the_same_of_the_released_one(shared_data: Path, tmp_path: Path) -> None:
    check_with_transformers(load_tokenizer(shared_data / "models/llama-tokenizer"), tmp_path, NUM_TEXTS)


def test_transformers_makes_the_same_of_smollm2s_vocabulary(tmp_path: Path) -> None:
    check_with_transformers(smollm2(), tmp_path, NUM_TEXTS)


@pytest.mark.slow
def test_100_000_texts_with_transformers(shared_data: Path, tmp_path: Path) -> None:
    released = load_tokenizer(shared_data / "models/llama-tokenizer")
    for name, tokenizer in {"own": own_tokenizer("pieces"), "released": released, "smollm2": smollm2()}.items():
        (tmp_path / name).mkdir()
        check_with_transformers(tokenizer, tmp_path / name, NUM_SLOW_TEXTS)


@pytest.mark.parametrize("newlines", ["bytes", "pieces"])
def test_our_own_tokenizer_comes_back_from_every_form(newlines: Newlines, tmp_path: Path) -> None:
    tokenizer = own_tokenizer(newlines)
    write_huggingface(tokenizer, tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == tokenizer.model
    sample = list(hard_texts(1000, seed=11))
    expected = tokenizer.encode_batch(sample)
    for other in (load_tokenizer(tmp_path), load_gguf_vocabulary(to_gguf_metadata(tokenizer))):
        assert_equal_facts(other, tokenizer)
        assert other.unk_id == tokenizer.unk_id
        assert_equal_ids(sample, other.encode_batch(sample), expected)
        for text in sample[:200]:
            assert other.decode(other.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_llama_cpps_own_file_is_what_we_write(shared_data: Path) -> None:
    folder = shared_data / "models/llama-tokenizer"
    theirs = read_metadata(folder / "ggml-vocab-llama-spm.gguf")
    ours = to_gguf_metadata(load_tokenizer(folder / "tokenizer.model"))
    # Its makers left this out, and llama.cpp takes it to be so.
    assert ours.pop("tokenizer.ggml.add_space_prefix") is True
    assert ours.keys() == {key for key in theirs if key.startswith("tokenizer.")}
    for key, value in ours.items():
        assert np.array_equal(value, theirs[key]), key


def test_smollm2s_keys_are_what_we_write_back() -> None:
    theirs = smollm2_metadata()
    ours = to_gguf_metadata(smollm2())
    assert ours.pop("tokenizer.ggml.add_eos_token") is False
    assert {*ours, "tokenizer.ggml.padding_token_id"} == {key for key in theirs if key.startswith("tokenizer.")}
    for key, value in ours.items():
        assert np.array_equal(value, theirs[key]), key


def test_the_json_form_of_llamas_tokenizer_becomes_a_gguf_vocabulary(shared_data: Path) -> None:
    folder = shared_data / "models/llama-tokenizer"
    tokenizer = load_tokenizer(folder / "tokenizer.hf.json.gz")
    other = load_gguf_vocabulary(to_gguf_metadata(tokenizer))
    assert other.kind == "SentencePiece"
    original = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    sample = list(hard_texts(1000, seed=12))
    assert_equal_ids(sample, other.encode_batch(sample), original.encode(sample))
    assert other.encode("|||IP_ADDRESS|||")[-1] == 32_002


def test_a_llama3_folder_becomes_a_gguf_vocabulary_and_comes_back(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_llama3_folder(tmp_path / "model"))
    metadata = to_gguf_metadata(tokenizer)
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == "llama-bpe"
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.chat_template"] == LLAMA3_TEMPLATE
    assert metadata["tokenizer.ggml.token_type"].dtype == np.int32
    other = load_gguf_vocabulary(metadata)
    assert_equal_facts(other, tokenizer)
    sample = list(hard_texts(1000, seed=13))
    assert_equal_ids(sample, other.encode_batch(sample), tokenizer.encode_batch(sample))
    folder = tmp_path / "again"
    folder.mkdir()
    write_huggingface(other, folder)
    again = load_tokenizer(folder)
    assert_equal_facts(again, tokenizer)
    assert_equal_ids(sample, again.encode_batch(sample), tokenizer.encode_batch(sample))
    assert not (folder / "tokenizer.model").exists()


def test_pieces_that_are_missing_between_ids_are_filled_up(tmp_path: Path) -> None:
    folder = write_llama3_folder(tmp_path / "model")
    tree = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tree["added_tokens"][-1]["id"] += 3
    tree["model"]["vocab"].update({token["content"]: token["id"] for token in tree["added_tokens"]})
    (folder / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    (folder / "generation_config.json").unlink()
    metadata = to_gguf_metadata(load_tokenizer(folder))
    assert metadata["tokenizer.ggml.tokens"][-4:] == ["[PAD1505]", "[PAD1506]", "[PAD1507]", "<|eot_id|>"]
    assert metadata["tokenizer.ggml.token_type"][-4:].tolist() == [5, 5, 5, 3]
    assert load_gguf_vocabulary(metadata).vocab_size == 1509


def test_stop_tokens_without_a_known_name_are_written() -> None:
    tokenizer = SentencePieceTokenizer(small_tokenizer().model, stop_ids=(300, 301))
    metadata = to_gguf_metadata(tokenizer)
    assert metadata["tokenizer.ggml.eot_token_id"] == 300
    assert load_gguf_vocabulary(metadata).stop_ids == {2, 300, 301}
    with pytest.raises(UserError, match="stop tokens 300, 301, 302, and GGUF can name two"):
        to_gguf_metadata(SentencePieceTokenizer(small_tokenizer().model, stop_ids=(300, 301, 302)))


def test_what_ends_an_answer_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5]}', encoding="utf-8")
    write_huggingface(small_tokenizer(), tmp_path)
    assert load_tokenizer(tmp_path).stop_ids == {2, 5}


def change_pre_tokenizer(tree: dict[str, Any]) -> None:
    tree["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\S+"}


def change_step(tree: dict[str, Any]) -> None:
    tree["pre_tokenizer"]["pretokenizers"][0] = {"type": "Punctuation", "behavior": "Isolated"}


def change_normalizer(tree: dict[str, Any]) -> None:
    tree["normalizer"] = {"type": "NFC"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_pre_tokenizer, "it cuts words in a way that has no name in GGUF files"),
        (change_step, "its step Punctuation of cutting words is none that GGUF files name"),
        (change_normalizer, "it normalises text"),
    ],
)
def test_what_gguf_cannot_say_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder = write_llama3_folder(tmp_path / "model")
    tree = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(tree)
    tokenizer = load_tokenizer_json(json.dumps(tree), Companions())
    with pytest.raises(UserError, match=f"cannot be written in another format: {message}; keep its tokenizer.json"):
        to_gguf_metadata(tokenizer)


def test_merges_that_follow_no_scores_are_refused(tmp_path: Path) -> None:
    write_huggingface(own_tokenizer("bytes"), tmp_path)
    tree = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    tree["model"]["merges"].pop()
    with pytest.raises(UserError, match="its merges follow no scores"):
        to_gguf_metadata(load_tokenizer_json(json.dumps(tree), Companions()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model_type": "unigram"}, "it does not encode byte pairs"),
        ({"normalization_rule_name": "nmt_nfkc"}, "it changes text before it encodes it"),
        ({"remove_extra_whitespaces": True}, "it changes text before it encodes it"),
    ],
)
def test_a_sentencepiece_model_of_another_kind_is_refused(flags: dict[str, Any], message: str, tmp_path: Path) -> None:
    defaults = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    with (tmp_path / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts()),
            model_writer=model,
            vocab_size=360,
            byte_fallback=True,
            minloglevel=2,
            **{**defaults, **flags},
        )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("the llama")) == "the llama"
    for write in (to_gguf_metadata, lambda found: write_huggingface(found, tmp_path)):
        with pytest.raises(UserError, match=message):
            write(tokenizer)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be written: no such file"):
        write_huggingface(small_tokenizer(), tmp_path / "absent")
