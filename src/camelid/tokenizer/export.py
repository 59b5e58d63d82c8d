"""Tokenizers written in the formats of others: Hugging Face's files, and the keys of a GGUF file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from camelid.errors import UserError
from camelid.tokenizer.byte_pair import BytePairTokenizer
from camelid.tokenizer.engine import build_engine
from camelid.tokenizer.gguf_vocabulary import BYTE_LEVEL_MODEL, SCORED_MODEL, TEMPLATE_KEY, ggml_key
from camelid.tokenizer.huggingface import CONFIG_NAME, GENERATION_NAME, TOKENIZER_NAME
from camelid.tokenizer.interface import STOP_NAMES, Tokenizer
from camelid.tokenizer.load import MODEL_NAME
from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.vocabulary import MergedVocabulary, ScoredVocabulary


def to_gguf_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    """The `tokenizer.*` keys that llama.cpp needs; types are an int32 array, scores a float32 array, ids whole numbers.

    Raises:
        UserError: the tokenizer does what these keys cannot say.
    """
    metadata = _describe_vocabulary(tokenizer)
    roles = {"eos": tokenizer.eos_id}
    if tokenizer.has_bos:
        roles["bos"] = tokenizer.bos_id
    if tokenizer.unk_id is not None:
        roles["unknown"] = tokenizer.unk_id
    # llama.cpp knows the others by their names.
    named = {tokenizer.special_tokens[name] for name in STOP_NAMES.intersection(tokenizer.special_tokens)}
    unnamed = sorted(tokenizer.stop_ids - named - {tokenizer.eos_id})
    if len(unnamed) > 2:
        raise UserError(
            f"the tokenizer has the stop tokens {', '.join(map(str, unnamed))}, and GGUF can name two besides EOS; "
            "take some out of generation_config.json"
        )
    roles.update(zip(("eot", "eom"), unnamed, strict=False))
    metadata.update({ggml_key(f"{role}_token_id"): index for role, index in roles.items()})
    metadata[ggml_key("add_bos_token")] = tokenizer.adds_bos
    metadata[ggml_key("add_eos_token")] = False
    if tokenizer.chat_template is not None:
        metadata[TEMPLATE_KEY] = tokenizer.chat_template
    return metadata


def _describe_vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    vocabulary = tokenizer.vocabulary
    common = {"tokens": list(vocabulary.pieces), "token_type": np.array(vocabulary.types, np.int32)}
    match vocabulary:
        case ScoredVocabulary():
            own: dict[str, Any] = {
                "model": SCORED_MODEL,
                "pre": "default",
                "scores": np.array(vocabulary.scores, np.float32),
                "add_space_prefix": vocabulary.has_space_prefix,
            }
        case MergedVocabulary():
            own = {
                "model": BYTE_LEVEL_MODEL,
                "pre": vocabulary.pre_tokenizer,
                "merges": [f"{left} {right}" for left, right in vocabulary.merges],
                "add_space_prefix": False,
            }
    return {ggml_key(name): value for name, value in (own | common).items()}


def write_huggingface(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and, of a SentencePiece model, tokenizer.model into a folder.

    What ends an answer goes to generation_config.json, if the folder has none yet.

    Raises:
        UserError: the tokenizer does what a tokenizer.json cannot say, or a file cannot be written.
    """
    files = {TOKENIZER_NAME: _to_json(tokenizer).encode(), CONFIG_NAME: _to_bytes(_describe(tokenizer))}
    if isinstance(tokenizer, SentencePieceTokenizer):
        files[MODEL_NAME] = tokenizer.model
    if not (folder / GENERATION_NAME).exists():
        files[GENERATION_NAME] = _to_bytes(
            {"bos_token_id": tokenizer.bos_id, "eos_token_id": sorted(tokenizer.stop_ids)}
        )
    try:
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"{folder / name} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _to_json(tokenizer: Tokenizer) -> str:
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.to_json()
    names = {index: name for name, index in tokenizer.special_tokens.items()}
    try:
        engine = build_engine(tokenizer.vocabulary, bos=names[tokenizer.bos_id] if tokenizer.adds_bos else None)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the tokenizer cannot be written as {TOKENIZER_NAME}: {error}; keep its own file") from error
    return str(engine.to_str())


def _describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """What transformers wants to know besides the vocabulary."""
    names = {index: name for name, index in tokenizer.special_tokens.items()}
    described: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": tokenizer.adds_bos,
        "bos_token": names[tokenizer.bos_id] if tokenizer.has_bos else None,
        "eos_token": names[tokenizer.eos_id],
        "unk_token": names.get(tokenizer.unk_id) if tokenizer.unk_id is not None else None,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.chat_template is not None:
        described["chat_template"] = tokenizer.chat_template
    return described


def _to_bytes(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode()
