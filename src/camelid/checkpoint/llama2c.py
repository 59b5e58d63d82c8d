"""llama2.c's first format, a .bin of float32, packed by gzip or not: seven int32, then the tensors, kind by kind.

Rows of wq and wk stand in pairs. A negative vocabulary size means that the head is not the embedding. The format is
read and not written.
"""

import struct
import tempfile
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from camelid.checkpoint.bounded import map_file, map_open_file
from camelid.checkpoint.names import order_as_halves
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.planning.shapes import parameter_shapes
from camelid.settings import validate
from camelid.tokenizer.load import load_tokenizer

_HEADER = struct.Struct("<7i")
_NORM_EPS = 1e-5  # of llama2.c's program; the file does not say it
_LAYER_KINDS = (
    "attention_norm",
    "attention.wq",
    "attention.wk",
    "attention.wv",
    "attention.wo",
    "ffn_norm",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
)
_GZIP_MAGIC = b"\x1f\x8b"
_LATER_MAGIC = b"24ka"
_PIECE_BYTES = 1 << 20
# Trained float32 weights pack to nine tenths; what claims to unpack to much more is no model.
_MAX_UNPACKING = 16
_MAX_LAYERS = 1024


def read(path: Path) -> StoredModel:
    """Opens a file; what was packed by gzip is unpacked into a temporary file, which goes when the model does.

    Raises:
        UserError: it is damaged, or of another format.
    """
    data = map_file(path)
    if data[:2].tobytes() == _GZIP_MAGIC:
        data = _unpack(data, path)
    config, num_bytes = _read_header(data[: _HEADER.size].tobytes(), path)
    if data.size != num_bytes:
        raise UserError(f"{path} holds {data.size:,} bytes, and its header asks for {num_bytes:,}; get it again")
    return StoredModel(
        path=path,
        format="llama2c",
        config=config,
        tensors=_find_tensors(data, config),
        load_tokenizer=lambda: load_tokenizer(_tokenizer_path(path)),
    )


def _read_header(header: bytes, path: Path) -> tuple[ModelConfig, int]:
    """The configuration, and the length in bytes of a file that has it."""
    if header.startswith(_LATER_MAGIC):
        raise UserError(f"{path} is of a later llama2.c format; export the model with --version 0, or as Hugging Face")
    if len(header) < _HEADER.size:
        raise UserError(f"{path} is too short to be a llama2.c model; get it again")
    dim, ffn_hidden_dim, num_layers, num_heads, num_kv_heads, vocab_size, length = _HEADER.unpack(header)
    if num_layers > _MAX_LAYERS:
        raise UserError(f"{path} is no llama2.c model: it would have {num_layers:,} layers; name another file")
    values = {
        "dim": dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "ffn_hidden_dim": ffn_hidden_dim,
        "vocab_size": abs(vocab_size),
        "max_sequence_length": length,
        "norm_eps": _NORM_EPS,
        "is_head_tied": vocab_size > 0,
    }
    config = validate(ModelConfig, values, f"{path} is no llama2.c model, or damaged")
    num_values = sum(map(prod, parameter_shapes(config).values())) + length * config.head_dim
    return config, _HEADER.size + 4 * num_values


def _find_tensors(data: NDArray[np.uint8], config: ModelConfig) -> dict[str, StoredTensor]:
    shapes = parameter_shapes(config)
    tensors = {}
    place = _HEADER.size
    for name in _file_order(config):
        if name is None:
            place += 4 * config.max_sequence_length * config.head_dim
            continue
        end = place + 4 * prod(shapes[name])
        tensors[name] = order_as_halves(_make_tensor(name, shapes[name], data[place:end]), config)
        place = end
    assert place == data.size
    return tensors


def _file_order(config: ModelConfig) -> list[str | None]:
    """Names of the tensors one after the other; None is a table of cosines and sines, which no one needs any more."""
    layers = [f"layers.{layer}.{kind}.weight" for kind in _LAYER_KINDS for layer in range(config.num_layers)]
    head = [] if config.is_head_tied else ["output.weight"]
    return ["tok_embeddings.weight", *layers, "norm.weight", None, *head]


def _make_tensor(name: str, shape: tuple[int, ...], data: NDArray[np.uint8]) -> StoredTensor:
    return StoredTensor(name, shape, ENCODINGS["f32"], lambda: data)


def _tokenizer_path(path: Path) -> Path:
    beside = path.with_name("tokenizer.bin")
    return beside if beside.is_file() else path.parent


def _unpack(packed: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    try:
        # The file is gone from its folder at once, and from the disk with the last view of it.
        with tempfile.TemporaryFile() as file:
            _unpack_into(file, packed, path)
            return map_open_file(file)
    except zlib.error as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be unpacked into {tempfile.gettempdir()}: {reason}; make room there") from error


def _unpack_into(file: BinaryIO, packed: NDArray[np.uint8], path: Path) -> None:
    """Writes what is packed, and no more than its first bytes announce."""
    unpacker = zlib.decompressobj(wbits=31)
    expected = _HEADER.size
    for start in range(0, packed.size, _PIECE_BYTES):
        piece = packed[start : start + _PIECE_BYTES].tobytes()
        while piece and not unpacker.eof:
            unpacked = unpacker.decompress(piece, _PIECE_BYTES)
            piece = unpacker.unconsumed_tail
            if file.tell() == 0 and unpacked:
                _, expected = _read_header(unpacked[: _HEADER.size], path)
                if expected > _MAX_UNPACKING * packed.size:
                    raise UserError(f"{path} asks for {expected:,} bytes, and holds only {packed.size:,}; get it again")
            file.write(unpacked)
            if file.tell() > expected:
                raise UserError(f"{path} unpacks to more than the {expected:,} bytes that it asks for; get it again")
    if not unpacker.eof:
        raise UserError(f"{path} is damaged (it was cut off); get it again")
    file.flush()
