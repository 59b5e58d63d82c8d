"""A model becomes a smaller one, layer by layer: memory holds one layer and the hidden states of the calibration text.

Shapes: B windows, T tokens of a window, D model width, I inputs of a matrix.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camelid.checkpoint import gguf
from camelid.checkpoint.load import decode_tensor
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS, encode
from camelid.errors import UserError
from camelid.model.llama import Layer
from camelid.model.operations import causal_attention, rotary_frequencies, rotary_table
from camelid.progress import progress
from camelid.quantization.blocks import pack
from camelid.quantization.feedback import BLOCK, factorise, quantise
from camelid.quantization.settings import QuantisationSettings

_WINDOWS_AT_ONCE = 4
_HEADS = ("tok_embeddings.weight", "output.weight")
_INPUTS = {
    "attention.wq": "attention.wq",
    "attention.wk": "attention.wq",
    "attention.wv": "attention.wq",
    "attention.wo": "attention.wo",
    "feed_forward.w1": "feed_forward.w1",
    "feed_forward.w3": "feed_forward.w1",
    "feed_forward.w2": "feed_forward.w2",
}
"""The matrix of a layer whose inputs each matrix shares."""


@dataclass(frozen=True)
class TensorError:
    """What the quantisation of one tensor cost."""

    name: str
    encoding: str
    relative_error: float
    """Root mean square of the error divided by that of the values."""
    output_error: float | None
    """The same of the matrix's outputs on the calibration text, None where there is none."""


def quantise_model(
    model: StoredModel, path: Path, settings: QuantisationSettings, calibration: Sequence[int] | None
) -> list[TensorError]:
    """Writes `path`, a GGUF file.

    Args:
        calibration: token ids of a text like those that the model will read; with them errors are weighted by what the
            matrices really multiply, and passed on to be made good. None weights all values alike.

    Raises:
        UserError: a matrix does not divide into blocks, the text is too short, or `path` cannot be written.
    """
    _check(model, settings, calibration)
    errors: list[TensorError] = []
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=_parent(path)) as folder:
        spill = _Spill(Path(folder), model)
        for name in _HEADS:
            if name in model.tensors:
                errors.append(_quantise_head(model.tensors[name], settings, spill))
        hidden = _embed(model, settings, calibration)
        with progress("quantising", model.config.num_layers, "layers") as advance:
            for index in range(model.config.num_layers):
                layer_errors, hidden = _quantise_layer(model, index, settings, hidden, spill)
                errors += layer_errors
                advance(1)
        gguf.write(replace(model, tensors=spill.tensors), path)
    return errors


def _check(model: StoredModel, settings: QuantisationSettings, calibration: Sequence[int] | None) -> None:
    for tensor in model.tensors.values():
        if len(tensor.shape) == 2 and tensor.shape[1] % BLOCK:
            raise UserError(
                f"{model.path}: rows of {tensor.name} have {tensor.shape[1]:,} values, which do not divide into blocks "
                f"of {BLOCK}; such a model can only be f16 or bf16 (camelid checkpoint convert)"
            )
    if calibration is not None and len(calibration) < settings.window:
        raise UserError(
            f"the calibration text has {len(calibration):,} tokens; give one of at least {settings.window:,}, better "
            f"{settings.calibration_tokens:,}"
        )


def _parent(path: Path) -> Path:
    if path.exists():
        raise UserError(f"{path} exists already; name another file, or remove it first")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: there is no such folder; make it, or name another file")
    return path.parent


class _Spill:
    """Quantised tensors, kept in files until the whole model is written."""

    def __init__(self, folder: Path, model: StoredModel):
        self._folder = folder
        self.tensors: dict[str, StoredTensor] = dict(model.tensors)

    def put(self, name: str, encoding: str, data: NDArray[np.uint8]) -> None:
        path = self._folder / name
        data.tofile(path)

        def read() -> NDArray[np.uint8]:
            return np.memmap(path, np.uint8, "r")

        self.tensors[name] = replace(self.tensors[name], encoding=ENCODINGS[encoding], read=read)


def _quantise_head(tensor: StoredTensor, settings: QuantisationSettings, spill: _Spill) -> TensorError:
    values = decode_tensor(tensor)
    encoding = settings.encoding if settings.head_encoding == "same" else settings.head_encoding
    if encoding == "f16":
        spill.put(tensor.name, encoding, encode(values.numpy(), ENCODINGS[encoding]))
        return TensorError(tensor.name, encoding, _relative(values.half().float() - values, values), None)
    blocks = quantise(values, None, encoding)
    spill.put(tensor.name, encoding, pack(blocks, encoding))
    return TensorError(tensor.name, encoding, _relative(blocks.decode().view_as(values) - values, values), None)


def _embed(model: StoredModel, settings: QuantisationSettings, calibration: Sequence[int] | None) -> Tensor | None:
    """Hidden states [B, T, D] before the first layer."""
    if calibration is None:
        return None
    window = min(settings.window, model.config.max_sequence_length)
    num_windows = min(len(calibration), settings.calibration_tokens) // window
    tokens = torch.tensor(calibration[: num_windows * window]).view(num_windows, window)
    return nn.functional.embedding(tokens, decode_tensor(model.tensors["tok_embeddings.weight"]))


@torch.no_grad()
def _quantise_layer(
    model: StoredModel, index: int, settings: QuantisationSettings, hidden: Tensor | None, spill: _Spill
) -> tuple[list[TensorError], Tensor | None]:
    """Quantises one layer; what it makes of the hidden states with its quantised weights goes into the next."""
    layer = Layer(model.config, index)
    prefix = f"layers.{index}."
    layer.load_state_dict({name: decode_tensor(model.tensors[prefix + name]) for name in layer.state_dict()})
    linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    moments = _collect_moments(layer, _runner(model), hidden)
    factors = {name: factorise(seen) for name, seen in moments.items()}
    errors = []
    for name, linear in linears.items():
        weight = linear.weight.detach()
        seen = moments.get(_INPUTS[name])
        blocks = quantise(weight, factors.get(_INPUTS[name]), settings.encoding)
        difference = blocks.decode().view_as(weight) - weight
        full_name = f"{prefix}{name}.weight"
        spill.put(full_name, settings.encoding, pack(blocks, settings.encoding))
        errors.append(
            TensorError(
                full_name, settings.encoding, _relative(difference, weight), _output_error(difference, weight, seen)
            )
        )
        linear.weight.copy_(weight + difference)
    if hidden is not None:
        hidden = torch.cat(list(_run(layer, _runner(model), hidden)))
    return errors, hidden


Forward = Callable[[Layer, Tensor], Tensor]


def _runner(model: StoredModel) -> Forward:
    frequencies = rotary_frequencies(model.config)

    def forward(layer: Layer, hidden: Tensor) -> Tensor:
        cos, sin = rotary_table(frequencies, torch.arange(hidden.shape[1]))
        return layer(hidden, cos, sin, lambda _layer, q, k, v: causal_attention(q, k, v))  # type: ignore[no-any-return]

    return forward


def _run(layer: Layer, forward: Forward, hidden: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(hidden), _WINDOWS_AT_ONCE):
        yield forward(layer, hidden[start : start + _WINDOWS_AT_ONCE])


def _collect_moments(layer: Layer, forward: Forward, hidden: Tensor | None) -> dict[str, Tensor]:
    """Mean outer products [I, I] of the inputs that `_INPUTS` names."""
    if hidden is None:
        return {}
    moments: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2)
            moments[name] = rows.T @ rows if name not in moments else moments[name].addmm_(rows.T, rows)

        return add

    watched = sorted(set(_INPUTS.values()))
    handles = [layer.get_submodule(name).register_forward_pre_hook(watch(name)) for name in watched]
    for _ in _run(layer, forward, hidden):
        pass
    for handle in handles:
        handle.remove()
    num_tokens = hidden.shape[0] * hidden.shape[1]
    return {name: total / num_tokens for name, total in moments.items()}


def _relative(difference: Tensor, values: Tensor) -> float:
    return float(difference.norm() / values.norm().clamp_min(torch.finfo(torch.float32).tiny))


def _output_error(difference: Tensor, weight: Tensor, moments: Tensor | None) -> float | None:
    """Root mean square of the outputs' error divided by that of the outputs."""
    if moments is None:
        return None
    error, size = (((matrix @ moments) * matrix).sum() for matrix in (difference, weight))
    return float((error.clamp_min(0) / size.clamp_min(torch.finfo(torch.float32).tiny)).sqrt())
