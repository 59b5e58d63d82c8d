"""A tokenizer from a file or folder, whatever its form."""

import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from camelid.errors import UserError
from camelid.tokenizer.interface import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from camelid.tokenizer.huggingface import Companions

__all__ = ["MODEL_NAME", "StreamDecoder", "Tokenizer", "load_tokenizer"]

MODEL_NAME = "tokenizer.model"
_NAMES = ("tokenizer.json", MODEL_NAME, "tokenizer.json.gz", "tokenizer.bin")
"""What a folder's tokenizer is called, the richest form first: tokens that were added later stand in JSON alone."""

_GZIP_MAGIC = b"\x1f\x8b"
_GGUF_MAGIC = b"GGUF"
_JSON_BEGINNING = re.compile(rb"\s*\{\s*\"")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_MAX_UNPACKED_BYTES = 1 << 28


def load_tokenizer(path: Path) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a SentencePiece model, a tokenizer.json (or .json.gz), Meta's tokenizer.model of Llama 3, a llama2.c
            tokenizer.bin; or a folder with one of them, whose other files say what BOS and EOS are, what ends an
            answer, and how a chat is written.

    Raises:
        UserError: there is no such file, it is damaged, or it lacks the pieces that Camelid needs.
    """
    from camelid.tokenizer.huggingface import Companions, read_companions

    file = _find_file(path) if path.is_dir() else path
    try:
        return _load(file.read_bytes(), file, read_companions(path) if path.is_dir() else Companions())
    except OSError as error:
        raise UserError(f"{file} cannot be read as a tokenizer: {(error.strerror or str(error)).lower()}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{file} is not a tokenizer that Camelid can use: {error}; restore or replace it") from error


def _find_file(folder: Path) -> Path:
    found = next((folder / name for name in _NAMES if (folder / name).exists()), None)
    if found is None:
        raise UserError(f"{folder} holds no tokenizer, a file called {', '.join(_NAMES[:-1])} or {_NAMES[-1]}; add one")
    return found


def _load(data: bytes, file: Path, companions: "Companions") -> Tokenizer:
    if data.startswith(_GZIP_MAGIC):
        data = _unpack(data)
    if data.startswith(_GGUF_MAGIC):
        raise UserError(f"{file} is a whole model; give its name where a model is asked for, the vocabulary is in it")
    if file.suffix == ".json" or _JSON_BEGINNING.match(data):
        from camelid.tokenizer.huggingface import load_tokenizer_json

        return load_tokenizer_json(data.decode(), companions)
    if file.suffix == ".bin":
        from camelid.tokenizer.llama2c import load_llama2c_tokenizer

        return load_llama2c_tokenizer(data)
    if _TIKTOKEN_LINE.match(data):
        from camelid.tokenizer.tiktoken import load_tiktoken

        return load_tiktoken(data, chat_template=companions.chat_template, stop_ids=companions.stop_ids)
    from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(
        data,
        adds_bos=companions.adds_bos is not False,
        chat_template=companions.chat_template,
        stop_ids=companions.stop_ids,
    )
    if companions.eos is not None and tokenizer.special_tokens.get(companions.eos) != tokenizer.eos_id:
        raise ValueError(f"the files beside it call {companions.eos!r} its EOS, which only a tokenizer.json could say")
    return tokenizer


def _unpack(data: bytes) -> bytes:
    """The content of a gzip file, up to a size that no tokenizer has.

    Raises:
        ValueError: it is damaged, or larger.
    """
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(data, _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise ValueError(f"its compression is damaged ({error})") from error
    if not unpacker.eof:
        raise ValueError(f"it is cut off, or would unpack to more than {_MAX_UNPACKED_BYTES:,} bytes")
    return unpacked
