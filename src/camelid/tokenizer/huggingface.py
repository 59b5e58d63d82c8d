"""Hugging Face's tokenizer.json, and the files beside a vocabulary that say how a model uses it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from camelid.errors import UserError
from camelid.tokenizer.byte_pair import BytePairTokenizer, flatten_steps, is_panic
from camelid.tokenizer.interface import STOP_NAMES
from camelid.tokenizer.vocabulary import check_merges, split_merges

TOKENIZER_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
_SPECIALS_NAME = "special_tokens_map.json"
GENERATION_NAME = "generation_config.json"
_STOP_FILES = (GENERATION_NAME, "config.json")

# What stands before and after a text where no file says it: the first pair that the vocabulary has.
_USUAL_ENDS = (("<|begin_of_text|>", "<|end_of_text|>"), ("<s>", "</s>"), ("<|endoftext|>", "<|endoftext|>"))

_STEPS = {
    "normalizer": ("Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Strip", "Lowercase"),
    "pre_tokenizer": ("ByteLevel", "Split", "Digits", "Metaspace", "Punctuation", "WhitespaceSplit", "Whitespace"),
    "decoder": ("ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"),
    "post_processor": ("ByteLevel", "TemplateProcessing"),
}
_MAX_ID = 1 << 24


@dataclass(frozen=True)
class Companions:
    """What the files beside a vocabulary say; None where they do not."""

    bos: str | None = None
    eos: str | None = None
    unk: str | None = None
    adds_bos: bool | None = None
    chat_template: str | None = None
    stop_ids: tuple[int, ...] = ()
    special: tuple[str, ...] = ()
    """Texts of tokens that are marked as special."""


def read_companions(folder: Path) -> Companions:
    """Reads what a folder says beside its vocabulary.

    Raises:
        UserError: a file is damaged.
    """
    config = {**_read_json(folder / _SPECIALS_NAME), **_read_json(folder / CONFIG_NAME)}
    template = folder / TEMPLATE_NAME
    stops = (_read_json(folder / name).get("eos_token_id") for name in _STOP_FILES)
    stop = next((found for found in stops if found is not None), None)
    added = config.get("added_tokens_decoder")
    tokens = added.values() if isinstance(added, dict) else ()
    adds_bos = config.get("add_bos_token")
    return Companions(
        bos=_find_text(config.get("bos_token")),
        eos=_find_text(config.get("eos_token")),
        unk=_find_text(config.get("unk_token")),
        adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
        chat_template=_read_text(template) if template.is_file() else _find_template(config.get("chat_template")),
        stop_ids=tuple(index for index in (stop if isinstance(stop, list) else [stop]) if type(index) is int),
        special=tuple(
            text
            for token in tokens
            if isinstance(token, dict) and token.get("special") is True and (text := _find_text(token))
        ),
    )


def load_tokenizer_json(text: str, companions: Companions) -> BytePairTokenizer:
    """The tokenizer of a tokenizer.json's text.

    Raises:
        ValueError: the text is no such file, or asks for what Camelid does not know.
    """
    file = _parse(text)
    engine = _build(text)
    for token in file.get("added_tokens") or ():
        if engine.token_to_id(token["content"]) != token["id"]:
            raise ValueError(f"its added token {token['content']!r} cannot have the id {token['id']:,}")
    bos, eos = companions.bos, companions.eos
    if eos is None:
        known = (pair for pair in _USUAL_ENDS if engine.token_to_id(pair[0]) is not None)
        usual = next((pair for pair in known if engine.token_to_id(pair[1]) is not None), None)
        if usual is None:
            raise ValueError(f"nothing says which token ends a text; give {CONFIG_NAME} an eos_token")
        bos, eos = bos or usual[0], usual[1]
    unk = companions.unk or file["model"].get("unk_token")
    _mark_special(engine, {bos, eos, unk, *companions.special})
    eos_id = engine.token_to_id(eos)
    if eos_id is None:
        raise ValueError(f"its EOS token {eos!r} is not in its vocabulary")
    bos_id = None if bos is None else engine.token_to_id(bos)
    adds_bos = companions.adds_bos
    if adds_bos is None:
        adds_bos = _begins_with(bos, file.get("post_processor"))
    return BytePairTokenizer(
        engine,
        vocab_size=max(engine.get_vocab(with_added_tokens=True).values()) + 1,
        bos_id=bos_id,
        eos_id=eos_id,
        unk_id=None if unk is None else engine.token_to_id(unk),
        adds_bos=adds_bos and bos_id is not None,
        chat_template=companions.chat_template,
        stop_ids=companions.stop_ids,
    )


def _parse(text: str) -> dict[str, Any]:
    """The file as a tree, found to be one that the library can be given.

    Raises:
        ValueError: it is not.
    """
    try:
        file = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error
    model = file.get("model") if isinstance(file, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise ValueError(f"it has no model with a vocabulary, as a {TOKENIZER_NAME} has")
    if model.get("type", "BPE") != "BPE" or not isinstance(model["vocab"], dict):
        raise ValueError(f"its model is {model.get('type')}, and Camelid runs BPE")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise ValueError(f"its model has a {key}, which no LLaMA model has")
    _check_ids(model["vocab"])
    check_merges(_read_merges(model.get("merges")), set(model["vocab"]))
    for part, known in _STEPS.items():
        for step in flatten_steps(file.get(part)):
            if step.get("type") not in known:
                raise ValueError(f"its {part} has the step {step.get('type')!r}, which Camelid does not know")
    added = file.get("added_tokens") or []
    for token in added if isinstance(added, list) else [None]:
        if not isinstance(token, dict) or type(token.get("id")) is not int or not 0 <= token["id"] < _MAX_ID:
            raise ValueError(f"one of its added tokens has no id from 0 to {_MAX_ID - 1:,}")
    return dict(file)


def _check_ids(vocabulary: Mapping[str, Any]) -> None:
    if not all(type(index) is int and 0 <= index < _MAX_ID for index in vocabulary.values()):
        raise ValueError(f"the id of a token is no number from 0 to {_MAX_ID - 1:,}")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise ValueError("two of its tokens have one id")


def _read_merges(merges: Any) -> list[tuple[str, str]]:
    """Merges as pairs, which newer files write as such and older ones with a space between."""
    if not isinstance(merges, list):
        raise ValueError("it has no merges")
    if all(isinstance(merge, str) for merge in merges):
        return split_merges(merges)
    if not all(isinstance(merge, list) and [type(part) for part in merge] == [str, str] for merge in merges):
        raise ValueError("one of its merges is not two tokens")
    return merges


def _build(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise ValueError(f"the tokenizers library refuses it ({error})") from error
        raise


def _mark_special(engine: tokenizers.Tokenizer, names: set[str | None]) -> None:
    """Marks tokens as special that the file itself forgot to mark."""
    added: dict[int, tokenizers.AddedToken] = engine.get_added_tokens_decoder()
    by_text = {token.content: token for token in added.values()}
    wanted = {name for name in names if name} | STOP_NAMES.intersection(by_text)
    known = (name for name in wanted if engine.token_to_id(name) is not None)
    missing = [name for name in known if not (name in by_text and by_text[name].special)]
    plain = tokenizers.AddedToken("")
    engine.add_special_tokens(
        [
            tokenizers.AddedToken(name, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=True)
            for name in sorted(missing)
            for token in [by_text.get(name, plain)]
        ]
    )


def _begins_with(token: str | None, post_processor: Any) -> bool:
    """Whether the file puts a token before a text."""
    for step in flatten_steps(post_processor):
        match step:
            case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": first}}, *_]}:
                return bool(first == token)
    return False


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start:,}); get the file again") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        tree = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not JSON ({error}); get the file again") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no JSON object; get the file again")
    return tree


def _find_text(token: Any) -> str | None:
    """A token's text, which files write alone or in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _find_template(value: Any) -> str | None:
    """The template of ordinary chats; some models have several by name."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
