"""Hugging Face's tokenizer.json, against transformers on the same folder and sentencepiece on the same vocabulary."""

import copy
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hard_texts import hard_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from other_tokenizers import LLAMA3_SPECIALS, llama3_json, write_llama3_folder
from transformers import AutoTokenizer

from camelid.errors import UserError
from camelid.tokenizer.huggingface import Companions, load_tokenizer_json
from camelid.tokenizer.load import load_tokenizer

NUM_TEXTS = 2_000
NUM_SLOW_TEXTS = 100_000


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama3_folder(tmp_path_factory.mktemp("llama3"))


def change(folder: Path, name: str, **values: Any) -> None:
    """Sets keys of a JSON file of a folder; None takes a key out."""
    path = folder / name
    tree = (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}) | values
    path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}), encoding="utf-8")


def check_llama_json(count: int, shared_data: Path) -> None:
    """The same vocabulary in both forms; the JSON has three tokens besides, whose names are not among the texts."""
    folder = shared_data / "models/llama-tokenizer"
    original = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = list(hard_texts(count, seed=3))
    found = load_tokenizer(folder / "tokenizer.hf.json.gz").encode_batch(texts)
    for text, ids, right in zip(texts, found, original.encode(texts), strict=True):
        assert ids == right, repr(text)


def test_llamas_tokenizer_json_equals_sentencepiece(shared_data: Path) -> None:
    check_llama_json(NUM_TEXTS, shared_data)


@pytest.mark.slow
def test_100_000_texts_of_llamas_tokenizer_json_equal_sentencepiece(shared_data: Path) -> None:
    check_llama_json(NUM_SLOW_TEXTS, shared_data)


def test_llamas_tokenizer_json_decodes_as_sentencepiece(shared_data: Path) -> None:
    folder = shared_data / "models/llama-tokenizer"
    tokenizer = load_tokenizer(folder / "tokenizer.hf.json.gz")
    assert (tokenizer.kind, tokenizer.vocab_size) == ("BPE with byte fallback", 32_003)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.adds_bos) == (1, 2, 0, True)
    assert len(tokenizer.byte_ids) == 256
    for text in hard_texts(300, seed=4):
        ids = tokenizer.encode(text, bos=True, eos=True)
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")
    # A token that is neither control nor learnt is found in text, as its makers meant it to be.
    assert 32_002 in tokenizer.encode("a |||IP_ADDRESS||| b")
    assert tokenizer.decode([32_002]) == "|||IP_ADDRESS|||"


def test_a_llama3_folder_gives_the_ids_of_transformers(llama3: Path) -> None:
    other = AutoTokenizer.from_pretrained(llama3)
    tokenizer = load_tokenizer(llama3)
    texts = [text for text in hard_texts(NUM_TEXTS, seed=6) if not any(name in text for name in LLAMA3_SPECIALS)]
    assert tokenizer.encode_batch(texts) == other(texts, add_special_tokens=False).input_ids
    assert tokenizer.encode_batch(texts[:200], num_threads=1) == tokenizer.encode_batch(texts[:200])
    for text in texts[:200]:
        ids = tokenizer.encode(text, bos=True)
        assert ids == other(text).input_ids
        assert tokenizer.decode(ids) == other.decode(ids, skip_special_tokens=True) == text


def test_a_llama3_folder_says_how_it_is_used(llama3: Path) -> None:
    tokenizer = load_tokenizer(llama3)
    special = tokenizer.special_tokens
    assert tokenizer.kind == "byte-level BPE"
    assert list(special) == list(LLAMA3_SPECIALS)
    assert tokenizer.vocab_size == 1500 + len(LLAMA3_SPECIALS)
    assert tokenizer.bos_id == special["<|begin_of_text|>"]
    assert tokenizer.eos_id == special["<|eot_id|>"]
    assert tokenizer.stop_ids == {special[name] for name in ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")}
    assert tokenizer.adds_bos
    assert tokenizer.chat_template is not None


@pytest.mark.parametrize("name", LLAMA3_SPECIALS)
def test_the_name_of_a_control_token_is_text(llama3: Path, name: str) -> None:
    tokenizer = load_tokenizer(llama3)
    for ids in (tokenizer.encode(f"a {name}"), *tokenizer.encode_batch([f"a {name}", name])):
        assert not set(tokenizer.special_tokens.values()) & set(ids)
    assert tokenizer.decode(tokenizer.encode(f"a {name}")) == f"a {name}"


def test_half_a_surrogate_pair_is_refused(llama3: Path) -> None:
    tokenizer = load_tokenizer(llama3)
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch(["fine", text])):
        with pytest.raises(UserError, match=r"character 2, counted from 0, is half of a surrogate pair \(U\+D83D\)"):
            encode("ab\ud83d")


def test_files_beside_the_vocabulary_have_their_say(llama3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama3, folder)
    (folder / "chat_template.jinja").write_text("{{ 'newer' }}", encoding="utf-8")
    change(folder, "tokenizer_config.json", add_bos_token=False, eos_token={"content": "<|end_of_text|>"})
    (folder / "generation_config.json").unlink()
    change(folder, "config.json", eos_token_id=7)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == "{{ 'newer' }}"
    assert not tokenizer.adds_bos
    assert tokenizer.eos_id == tokenizer.special_tokens["<|end_of_text|>"]
    assert 7 in tokenizer.stop_ids
    change(folder, "tokenizer_config.json", add_bos_token=True, bos_token=None)
    assert not load_tokenizer(folder).adds_bos  # as in transformers, where nothing says what BOS is
    change(folder, "config.json", eos_token_id=10**6)
    with pytest.raises(UserError, match="its stop token 1,000,000 is not among its"):
        load_tokenizer(folder)


def test_the_template_called_default_is_taken(llama3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama3, folder)
    templates = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    change(folder, "tokenizer_config.json", chat_template=templates)
    assert load_tokenizer(folder).chat_template == "b"


def test_a_file_alone_is_read_without_its_neighbours(llama3: Path) -> None:
    tokenizer = load_tokenizer(llama3 / "tokenizer.json")
    assert tokenizer.chat_template is None
    # By the usual names.
    assert tokenizer.bos_id == tokenizer.special_tokens["<|begin_of_text|>"]
    assert tokenizer.eos_id == tokenizer.special_tokens["<|end_of_text|>"]


def test_tokens_that_the_file_forgot_to_mark_are_control(llama3: Path, tmp_path: Path) -> None:
    tree = json.loads(llama3_json())
    for token in tree["added_tokens"]:
        token["special"] = False
    folder = tmp_path / "model"
    shutil.copytree(llama3, folder)
    (folder / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    change(
        folder,
        "tokenizer_config.json",
        added_tokens_decoder={"1503": {"content": "<|start_header_id|>", "special": True}},
    )
    tokenizer = load_tokenizer(folder)
    assert set(tokenizer.special_tokens) == set(LLAMA3_SPECIALS) - {"<|end_header_id|>"}
    assert not set(tokenizer.special_tokens.values()) & set(tokenizer.encode("".join(tokenizer.special_tokens)))
    assert len(tokenizer.encode("<|end_header_id|>")) == 1  # not marked anywhere, and of no known name


def test_a_packed_file_is_read_and_a_bomb_is_not(llama3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "tokenizer.json.gz"
    packed.write_bytes(gzip.compress(llama3_json().encode()))
    assert load_tokenizer(packed).vocab_size == load_tokenizer(llama3).vocab_size
    assert load_tokenizer(tmp_path).vocab_size == load_tokenizer(llama3).vocab_size
    monkeypatch.setattr("camelid.tokenizer.load._MAX_UNPACKED_BYTES", 1 << 20)
    packed.write_bytes(gzip.compress(b"{" + b" " * (1 << 21)))
    with pytest.raises(UserError, match="would unpack to more than"):
        load_tokenizer(packed)
    packed.write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(UserError, match="its compression is damaged"):
        load_tokenizer(packed)


def changed(path: str, value: Any) -> str:
    """The small tokenizer.json with one place of it changed."""
    tree = copy.deepcopy(json.loads(llama3_json()))
    *way, last = path.split(".")
    node = tree
    for key in way:
        node = node[int(key) if isinstance(node, list) else key]
    node[int(last) if isinstance(node, list) else last] = value
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", None, "no model with a vocabulary"),
        ("model.type", "WordPiece", "its model is WordPiece, and Camelid runs BPE"),
        ("model.vocab", [["a", 0.5]], "its model is BPE"),
        ("model.vocab.!", 10**9, "the id of a token is no number from 0"),
        ("model.vocab.!", 5, "two of its tokens have one id"),
        ("model.vocab.!", 10**6, "ids go up to 1,000,000 for"),
        ("model.merges", None, "no merges"),
        ("model.merges.0", ["a", "unheard of"], "merge 0 joins 'a' and 'unheard of'"),
        ("model.merges.0", ["a"], "one of its merges is not two tokens"),
        ("model.dropout", 0.1, "has a dropout"),
        ("model.end_of_word_suffix", "</w>", "has a end_of_word_suffix"),
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
            "normalizer has the step 'Precompiled'",
        ),
        ("pre_tokenizer", {"type": "BertPreTokenizer"}, "pre_tokenizer has the step 'BertPreTokenizer'"),
        ("decoder", {"type": "WordPiece"}, "decoder has the step 'WordPiece'"),
        ("decoder", {"type": "Fuse"}, "neither byte-level nor has a piece for each byte"),
        ("pre_tokenizer.pretokenizers.0.pattern", {"Regex": "("}, "the tokenizers library refuses it"),
        ("added_tokens.0.id", "x", "one of its added tokens has no id"),
        ("added_tokens.0.id", 7, "cannot have the id 7"),
        ("added_tokens", 5, "one of its added tokens has no id"),
        ("added_tokens", [], "nothing says which token ends a text"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tokenizer_json(changed(path, value), Companions())


def test_damaged_neighbours_are_refused_by_name(llama3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama3, folder)
    for content, message in ((b"{", "is not JSON"), (b"[]", "holds no JSON object"), (b"\xff", "is not UTF-8 text")):
        (folder / "tokenizer_config.json").write_bytes(content)
        with pytest.raises(UserError, match=rf"tokenizer_config\.json {message}"):
            load_tokenizer(folder)
    change_to = {"eos_token": "<|not_there|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(change_to), encoding="utf-8")
    with pytest.raises(UserError, match=r"its EOS token '<\|not_there\|>' is not in its vocabulary"):
        load_tokenizer(folder)


def test_merges_that_make_a_control_token_of_text_are_caught(tmp_path: Path) -> None:
    tree = json.loads(llama3_json())
    piece = next(piece for piece in tree["model"]["vocab"] if piece.isalpha() and piece.isascii() and len(piece) > 3)
    tree["added_tokens"].append(tree["added_tokens"][0] | {"id": tree["model"]["vocab"][piece], "content": piece})
    tokenizer = load_tokenizer_json(json.dumps(tree), Companions())
    assert piece in tokenizer.special_tokens
    with pytest.raises(UserError, match=r"makes its control token .* of plain text"):
        tokenizer.encode(piece)


def test_a_text_that_is_too_much_for_the_library_is_refused() -> None:
    hostile = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = load_tokenizer_json(changed("pre_tokenizer.pretokenizers.0", hostile), Companions())
    with pytest.raises(UserError, match="the tokenizers library gives up"):
        tokenizer.encode("a" * 40 + "b")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.lists(st.text(max_size=2), max_size=3),
    st.sampled_from([{}, {"type": "Sequence"}, {"type": "Strip"}, {"type": "Metaspace"}, {"type": "ByteLevel"}]),
)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_corruption_of_the_tree_does_more_than_refuse(data: st.DataObject) -> None:
    tree = json.loads(llama3_json())
    for _ in range(data.draw(st.integers(1, 2))):
        node: Any = tree
        key: Any = None
        for _ in range(data.draw(st.integers(1, 5))):
            if isinstance(node, dict | list) and node:
                parent, key = (
                    node,
                    data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))),
                )
                node = parent[key]
        parent[key] = data.draw(JUNK)
    try:
        tokenizer = load_tokenizer_json(json.dumps(tree), Companions())
        tokenizer.decode([*tokenizer.encode("the llama \U0001f999\0  x"), *range(tokenizer.vocab_size)])
    except ValueError as refusal:
        assert str(refusal)  # noqa: PT017


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.binary(max_size=4))
def test_no_cut_or_changed_byte_does_more_than_refuse(place: int, change: bytes) -> None:
    text = llama3_json().encode()
    place %= len(text)
    for damaged in (text[:place], text[:place] + change + text[place + len(change) :]):
        try:
            load_tokenizer_json(damaged.decode(), Companions())
        except ValueError as refusal:
            assert str(refusal)  # noqa: PT017
