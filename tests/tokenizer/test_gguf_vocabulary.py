"""Vocabularies inside GGUF files, against sentencepiece, the tokenizers library and llama.cpp on the same text."""

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hard_texts import CONTROL_NAMES, hard_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from other_tokenizers import GPT2_PATTERN, smollm2, smollm2_metadata
from small_text import small_tokenizer
from tokenizers import Regex, models, pre_tokenizers

from camelid.checkpoint.gguf import read_metadata
from camelid.errors import UserError
from camelid.tokenizer.byte_level import PRE_TOKENIZERS
from camelid.tokenizer.export import to_gguf_metadata
from camelid.tokenizer.gguf_vocabulary import load_gguf_vocabulary
from camelid.tokenizer.interface import Tokenizer

NUM_TEXTS = 3_000
NUM_SLOW_TEXTS = 100_000

# Texts and the ids that llama.cpp (llama-cpp-python 0.3.36) makes of them: with SmolLM2's vocabulary, and with a small
# one whose pieces run over the ends of words, so that each way of cutting gives other ids.
CASES = json.loads((Path(__file__).parent / "llama_cpp_cases.json").read_text(encoding="utf-8"))
# For these llama.cpp replaces the model's expression by a simpler one, which takes no marks to be letters.
WITHOUT_MARKS = ("tekken", "gpt-4o")


def llama_folder(shared_data: Path) -> Path:
    return shared_data / "models/llama-tokenizer"


def llama(shared_data: Path) -> Tokenizer:
    return load_gguf_vocabulary(read_metadata(llama_folder(shared_data) / "ggml-vocab-llama-spm.gguf"))


def assert_equal_ids(texts: Iterable[str], found: Iterable[list[int]], expected: Iterable[list[int]]) -> None:
    for text, ids, right in zip(texts, found, expected, strict=True):
        assert ids == right, repr(text)


def check_llama_on(count: int, shared_data: Path) -> None:
    original = sentencepiece.SentencePieceProcessor(model_file=str(llama_folder(shared_data) / "tokenizer.model"))
    texts = list(hard_texts(count))
    assert_equal_ids(texts, llama(shared_data).encode_batch(texts), original.encode(texts))


def check_smollm2_on(count: int) -> None:
    metadata = smollm2_metadata()
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    ids = {piece: index for index, piece in enumerate(metadata["tokenizer.ggml.tokens"])}
    engine = tokenizers.Tokenizer(models.BPE(ids, merges))
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.Split(Regex(GPT2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    texts = list(hard_texts(count, seed=1))
    assert_equal_ids(texts, smollm2().encode_batch(texts), [item.ids for item in engine.encode_batch_fast(texts)])


def test_llama_vocabulary_equals_sentencepiece_on_the_original(shared_data: Path) -> None:
    check_llama_on(NUM_TEXTS, shared_data)


def test_smollm2_vocabulary_equals_one_put_together_here() -> None:
    check_smollm2_on(NUM_TEXTS)


@pytest.mark.slow
def test_100_000_texts_of_llama_equal_sentencepiece(shared_data: Path) -> None:
    check_llama_on(NUM_SLOW_TEXTS, shared_data)


@pytest.mark.slow
def test_100_000_texts_of_smollm2_equal_one_put_together_here() -> None:
    check_smollm2_on(NUM_SLOW_TEXTS)


def test_llama_vocabulary_makes_the_ids_of_llama_cpps_own_cases(shared_data: Path) -> None:
    folder = llama_folder(shared_data)
    cases = (folder / "ggml-vocab-llama-spm.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (folder / "ggml-vocab-llama-spm.gguf.out").read_text(encoding="utf-8").split("\n")
    assert len(cases) > 30
    tokenizer = llama(shared_data)
    for text, line in zip(cases, lines, strict=False):
        assert tokenizer.encode(text) == [int(token) for token in line.split()], text


def test_smollm2_vocabulary_makes_llama_cpps_ids() -> None:
    assert_equal_ids(CASES["texts"], smollm2().encode_batch(CASES["texts"]), CASES["smollm2"])


@pytest.mark.parametrize("name", [cut.names[0] for cut in PRE_TOKENIZERS])
def test_words_are_cut_as_llama_cpp_cuts_them(name: str) -> None:
    tokenizer = load_gguf_vocabulary(small_byte_level(**{"tokenizer.ggml.pre": name}))
    cases = [
        (text, ids)
        for text, ids in zip(CASES["texts"], CASES["ids"][name], strict=True)
        if name not in WITHOUT_MARKS or not any(unicodedata.category(character)[0] == "M" for character in text)
    ]
    assert len(cases) > 30
    assert_equal_ids(
        [text for text, _ in cases], [tokenizer.encode(text) for text, _ in cases], [ids for _, ids in cases]
    )


def test_the_cases_tell_the_ways_of_cutting_apart() -> None:
    # Two cut alike, and differ in what they make of a word that is a piece.
    assert len({json.dumps(ids) for ids in CASES["ids"].values()}) == len(PRE_TOKENIZERS) - 1


def test_a_word_that_is_a_piece_becomes_it_where_merges_are_ignored() -> None:
    keys = small_byte_level(**{"tokenizer.ggml.merges": []})
    piece = next(piece for piece in CASES["pieces"] if piece.isalpha() and piece.isascii() and len(piece) > 2)
    ignoring = load_gguf_vocabulary(keys | {"tokenizer.ggml.pre": "llama-bpe"})
    joining = load_gguf_vocabulary(keys | {"tokenizer.ggml.pre": "smaug-bpe"})
    assert ignoring.encode(piece) == [CASES["pieces"].index(piece)]
    assert joining.encode(piece) == [CASES["pieces"].index(character) for character in piece]


def small_byte_level(**changes: Any) -> dict[str, Any]:
    """Keys of a small byte-level vocabulary; a change to None takes the key out."""
    last = len(CASES["pieces"]) - 1
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(CASES["pieces"]),
        "tokenizer.ggml.token_type": [1] * last + [3],
        "tokenizer.ggml.merges": list(CASES["merges"]),
        "tokenizer.ggml.bos_token_id": last,
        "tokenizer.ggml.eos_token_id": last,
    }
    return {key: value for key, value in (keys | changes).items() if value is not None}


def small_scored(**changes: Any) -> dict[str, Any]:
    """Keys of a small SentencePiece vocabulary; a change to None takes the key out."""
    return {key: value for key, value in (to_gguf_metadata(small_tokenizer()) | changes).items() if value is not None}


def test_what_smollm2_says_of_itself_is_read() -> None:
    tokenizer = smollm2()
    assert tokenizer.kind == "byte-level BPE"
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (49_152, 1, 2, 0)
    assert tokenizer.stop_ids == {0, 2}
    assert not tokenizer.adds_bos
    assert len(tokenizer.special_tokens) == 17
    assert tokenizer.special_tokens["<|im_start|>"] == 1
    assert tokenizer.chat_template == smollm2_metadata()["tokenizer.chat_template"]
    assert all(tokenizer.decode([index]) == "\ufffd" for index in tokenizer.byte_ids)
    assert tokenizer.encode("a", bos=True, eos=True) == [1, *tokenizer.encode("a"), 2]


def test_what_the_llama_file_says_of_itself_is_read(shared_data: Path) -> None:
    tokenizer = llama(shared_data)
    assert tokenizer.kind == "SentencePiece"
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (32_000, 1, 2, 0)
    assert tokenizer.stop_ids == {2}
    assert tokenizer.adds_bos
    assert tokenizer.chat_template is None
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}


def test_text_that_smollm2_can_write_comes_back() -> None:
    tokenizer = smollm2()
    # It has no piece for these bytes, and leaves them out as it did when its model was trained.
    missing = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, *range(0xF1, 0x100)}
    assert tokenizer.decode(tokenizer.encode("".join(map(chr, range(128))))).encode() == bytes(
        byte for byte in range(128) if byte not in missing
    )
    for text in hard_texts(1000, seed=2):
        if missing.isdisjoint(text.encode()):
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", CONTROL_NAMES)
def test_the_name_of_a_control_token_is_text(text: str, shared_data: Path) -> None:
    for tokenizer in (smollm2(), llama(shared_data)):
        for ids in (tokenizer.encode(text), tokenizer.encode_batch([text, "b"])[0]):
            assert not set(tokenizer.special_tokens.values()) & set(ids)
            assert tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text())
def test_a_stream_of_byte_level_ids_is_their_decoding(before: str, after: str) -> None:
    tokenizer = smollm2()
    prompt, ids = tokenizer.encode(before, bos=True), tokenizer.encode(after, eos=True)
    decoder = tokenizer.stream_decoder(prompt)
    streamed = "".join([*map(decoder.push, ids), decoder.flush()])
    assert tokenizer.decode(prompt) + streamed == tokenizer.decode(prompt + ids)


def test_the_space_before_a_text_follows_the_file() -> None:
    with_space = load_gguf_vocabulary(small_scored())
    without = load_gguf_vocabulary(small_scored(**{"tokenizer.ggml.add_space_prefix": False}))
    assert with_space.encode("llama") == small_tokenizer().encode("llama")
    assert without.encode(" llama") == with_space.encode("llama")
    assert without.encode("llama") != with_space.encode("llama")
    for tokenizer in (with_space, without):
        assert tokenizer.decode(tokenizer.encode(" llama")) == " llama"


def test_bos_follows_the_file_and_the_kind_of_vocabulary() -> None:
    key = "tokenizer.ggml.add_bos_token"
    assert load_gguf_vocabulary(small_scored(**{key: None})).adds_bos
    assert not load_gguf_vocabulary(small_scored(**{key: False})).adds_bos
    assert not load_gguf_vocabulary(small_byte_level()).adds_bos
    assert load_gguf_vocabulary(small_byte_level(**{key: True})).adds_bos
    assert load_gguf_vocabulary(small_byte_level(**{"tokenizer.ggml.pre": "llama-bpe"})).adds_bos


def test_a_vocabulary_without_bos_puts_eos_between_texts() -> None:
    tokenizer = load_gguf_vocabulary(small_byte_level(**{"tokenizer.ggml.bos_token_id": None}))
    assert tokenizer.bos_id == tokenizer.eos_id
    assert not tokenizer.has_bos
    with pytest.raises(UserError, match="begin with BOS, but it names no BOS"):
        load_gguf_vocabulary(
            small_byte_level(**{"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.add_bos_token": True})
        )


def test_a_stop_token_is_control_even_where_the_file_forgets_it() -> None:
    keys = small_byte_level()
    keys["tokenizer.ggml.tokens"].append("<|eot_id|>")
    keys["tokenizer.ggml.token_type"].append(4)
    tokenizer = load_gguf_vocabulary(keys)
    last = len(CASES["pieces"])
    assert tokenizer.special_tokens["<|eot_id|>"] == last
    assert last in tokenizer.stop_ids
    assert last not in tokenizer.encode("<|eot_id|>")


def test_ids_of_roles_end_an_answer() -> None:
    last = len(CASES["pieces"]) - 1
    tokenizer = load_gguf_vocabulary(small_byte_level(**{"tokenizer.ggml.eot_token_id": 5}))
    assert tokenizer.stop_ids == {5, last}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, r"tokenizer\.ggml\.model is missing"),
        ({"model": "bert"}, r"model is 'bert', and Camelid knows 'llama' and 'gpt2'"),
        ({"model": 3}, r"model is no str"),
        ({"pre": None}, r"pre is missing"),
        ({"pre": "jina-v9"}, r"'jina-v9', which is not one of llama-bpe"),
        ({"tokens": None}, r"tokens is missing"),
        ({"tokens": []}, "0 tokens"),
        ({"tokens": ["a", 3]}, "tokens is no list of str"),
        ({"tokens": "abc"}, "tokens is no list of str"),
        ({"tokens": ["a"] * 901}, r"names the token 'a' \d+ times"),
        ({"tokens": ["a", "b"]}, r"2 tokens and the types of \d+"),
        ({"token_type": None}, "token_type is missing"),
        ({"token_type": [True] * 3}, "token_type is no list of int"),
        ({"token_type": np.full(901, 9)}, "type 9, which there is not"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["a b c"]}, r"merge 0 is 'a b c'"),
        ({"merges": ["a zzz"]}, r"merge 0 joins 'a' and 'zzz'"),
        ({"merges": ["a"]}, "merge 0 is 'a'"),
        ({"eos_token_id": None}, "eos_token_id is missing"),
        ({"eos_token_id": 10**6}, "eos_token_id is 1,000,000, and there are"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"eos_token_id": "2"}, "eos_token_id is no int"),
        ({"add_bos_token": 1}, "add_bos_token is no bool"),
    ],
)
def test_a_byte_level_vocabulary_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    keys = small_byte_level(**{f"tokenizer.ggml.{name}": value for name, value in changes.items()})
    with pytest.raises(UserError, match=message) as refusal:
        load_gguf_vocabulary(keys)
    assert str(refusal.value).count("\n") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "scores is missing"),
        ({"scores": [0.0]}, "400 tokens and the scores of 1"),
        ({"scores": [0.0] * 399 + [float("nan")]}, "the score of its token .* is nan"),
        ({"scores": [0] * 400}, "scores is no list of float"),
        ({"token_type": [1] * 400}, "there are not 256 byte pieces"),
        ({"token_type": [2] * 400}, r"\d+ tokens for what is unknown"),
        ({"bos_token_id": None}, "bos_token_id or .* is missing"),
        ({"remove_extra_whitespaces": True}, "removes spaces"),
        ({"tokens": ["\ud800", *map(str, range(399))]}, "not Unicode"),
        ({"tokens": ["", *map(str, range(399))]}, "token 0 is empty"),
    ],
)
def test_a_scored_vocabulary_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    keys = small_scored(**{f"tokenizer.ggml.{name}": value for name, value in changes.items()})
    with pytest.raises(UserError, match=message):
        load_gguf_vocabulary(keys)


def test_merges_that_make_a_control_token_are_refused() -> None:
    pieces = [*CASES["pieces"][:-1], "ab", "<|x|>"] if "ab" not in CASES["pieces"] else [*CASES["pieces"]]
    types = [1] * len(pieces)
    types[pieces.index("ab")] = types[-1] = 3
    keys = small_byte_level(
        **{"tokenizer.ggml.tokens": pieces, "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": ["a b"]}
    )
    keys |= {"tokenizer.ggml.eos_token_id": len(pieces) - 1, "tokenizer.ggml.bos_token_id": len(pieces) - 1}
    with pytest.raises(UserError, match="merge 0 joins 'a' and 'b', and not all of that are plain tokens"):
        load_gguf_vocabulary(keys)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.one_of(st.integers(-3, 500), st.text(max_size=3), st.floats()), max_size=4),
    st.just(np.array([1.0, float("nan")])),
)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_no_corruption_of_the_keys_does_more_than_refuse(data: st.DataObject) -> None:
    keys = dict(data.draw(st.sampled_from([small_scored(), small_byte_level()])))
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(keys)))
        values = keys[key]
        if isinstance(values, list | np.ndarray) and len(values) and data.draw(st.booleans()):
            changed = list(values)
            place = data.draw(st.integers(0, len(changed) - 1))
            changed[place] = data.draw(st.one_of(JUNK, st.sampled_from(changed)))
            keys[key] = changed
        else:
            keys[key] = data.draw(JUNK)
    try:
        tokenizer = load_gguf_vocabulary(keys)
        ids = tokenizer.encode("the llama </s> \U0001f999\0  x", bos=True, eos=True)
        tokenizer.decode([*ids, *range(tokenizer.vocab_size)])
    except UserError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017
