"""Are two stored models the same? Tensor by tensor, and by what they say on a text.

Shapes: T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camelid import artifact
from camelid.checkpoint.load import decode_tensor, load_transformer
from camelid.checkpoint.stored import StoredModel
from camelid.encoding import check_finite
from camelid.errors import UserError

_TOKENS_AT_ONCE = 256


@dataclass(frozen=True)
class TensorDifference:
    """How far apart two tensors of the same name are, as float32 values."""

    name: str
    encodings: tuple[str, str]
    is_identical: bool
    """Whether the values are equal to the last bit, NaN included."""
    max_difference: float
    relative_error: float
    """Root mean square of the difference divided by that of the first tensor."""


@dataclass(frozen=True)
class LogitDifference:
    """How far apart two models are on the same tokens."""

    num_tokens: int
    max_difference: float
    kl_nats: float
    """Mean over the tokens of the divergence of the second model's distribution from the first's."""
    agreement: float
    """Share of the tokens after which both find the same next token likeliest."""
    perplexities: tuple[float, float]


def check(model: StoredModel) -> int:
    """Reads every byte of a model; compares it with its manifest where it has one, and looks for values not finite.

    Returns:
        Number of tensors.

    Raises:
        UserError: a file was changed, a tensor cannot be read, or holds NaN or infinity.
    """
    if (model.path / artifact.MANIFEST_NAME).is_file():
        artifact.verify(model.path)
    for tensor in model.tensors.values():
        check_finite(tensor.read(), tensor.encoding, f"{model.path}: tensor {tensor.name}")
    return len(model.tensors)


def compare_tensors(first: StoredModel, second: StoredModel) -> Iterator[TensorDifference]:
    """Every tensor of both models, in the first one's order; memory holds two of them.

    Raises:
        UserError: the models differ in shape.
    """
    for name in {**first.tensors, **second.tensors}:
        shapes = [model.tensors[name].shape if name in model.tensors else None for model in (first, second)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"tensor {name} is {_say(shapes[0])} in {first.path} and {_say(shapes[1])} in {second.path}; only "
                "models of one shape can be compared"
            )
        stored = first.tensors[name], second.tensors[name]
        a, b = map(decode_tensor, stored)
        difference = (a - b).double()
        scale = a.double().square().mean().sqrt().item()
        error = difference.square().mean().sqrt().item()
        yield TensorDifference(
            name=name,
            encodings=(stored[0].encoding.name, stored[1].encoding.name),
            is_identical=torch.equal(a.view(torch.int32), b.view(torch.int32)),
            max_difference=difference.abs().max().item(),
            relative_error=error / scale if scale else error,
        )


@torch.inference_mode()
def compare_logits(
    first: StoredModel, second: StoredModel, tokens: Sequence[int], bos_id: int | None = None
) -> LogitDifference:
    """Runs both models in float32 on the same tokens, read as windows of 256.

    Args:
        tokens: [T], at least two.
        bos_id: begins each window, for models whose texts begin so; it is never scored.

    Raises:
        UserError: there are too few tokens, or one is in no vocabulary of the two.
    """
    if len(tokens) < 2:
        raise UserError(f"the text to compare on has {len(tokens)} tokens; give it at least a sentence")
    for model in (first, second):
        if max(tokens) >= model.config.vocab_size:
            raise UserError(
                f"token {max(tokens):,} of the text is not in the vocabulary of {model.config.vocab_size:,} of "
                f"{model.path}; compare models with one tokenizer"
            )
    models = [load_transformer(model) for model in (first, second)]
    length = min(_TOKENS_AT_ONCE, *(model.config.max_sequence_length for model in (first, second)))
    num_rows = num_scored = num_equal = 0
    largest = divergence = 0.0
    nats = torch.zeros(2, dtype=torch.float64)
    start = torch.tensor([] if bos_id is None else [bos_id], dtype=torch.int64)
    for piece in torch.split(torch.tensor(tokens), length - len(start)):
        window = torch.cat((start, piece))
        a, b = (model(window.unsqueeze(0))[0].double() for model in models)  # [T, V]
        log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
        largest = max(largest, (a - b).abs().max().item())
        divergence += (log_a.exp() * (log_a - log_b)).sum().item()
        num_equal += int((a.argmax(-1) == b.argmax(-1)).sum())
        nats += torch.stack([_nats(log_a, window), _nats(log_b, window)])
        num_rows += len(window)
        num_scored += len(window) - 1
    perplexity_a, perplexity_b = (nats / num_scored).exp().tolist()
    return LogitDifference(
        num_tokens=len(tokens),
        max_difference=largest,
        kl_nats=divergence / num_rows,
        agreement=num_equal / num_rows,
        perplexities=(perplexity_a, perplexity_b),
    )


def _nats(log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Summed loss [] of each token after the first of a window."""
    return -log_probabilities[:-1].gather(-1, tokens[1:].unsqueeze(-1)).sum()


def _say(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else " x ".join(map(str, shape))
