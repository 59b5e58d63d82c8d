"""Norms layer by layer: where a gradient vanishes or explodes shows here long before the loss tells."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from camelid.training.trainer import Trainer

Norms = list[dict[str, Any]]


@contextmanager
def measure_norms(trainer: Trainer, is_wanted: bool) -> Iterator[Norms]:
    """Yields a list that the step taken in the `with` block fills, with one record for each layer.

    A record holds `layer`, the norms of its weights and of its gradient (before clipping), and, where a layer has an
    output, the root mean square of it over the first row of the batch. The weights are those before the step.
    """
    norms: Norms = []
    if not is_wanted:
        yield norms
        return
    activations = _activation_rms(trainer)

    def observe() -> None:
        weights, gradients = _norms_by_layer(trainer.model, False), _norms_by_layer(trainer.model, True)
        for layer, weight in weights.items():
            norms.append({"layer": layer, "weight_norm": weight, "grad_norm": gradients[layer]})
            if layer in activations:
                norms[-1]["activation_rms"] = activations[layer]

    trainer.observe_gradients = observe
    try:
        yield norms
    finally:
        trainer.observe_gradients = None


def _norms_by_layer(model: nn.Module, is_gradient: bool) -> dict[str, float]:
    squares: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        tensor = parameter.grad if is_gradient else parameter.detach()
        assert tensor is not None, name
        squares[_layer_of(name)].append(_whole(torch.linalg.vector_norm(tensor.float())).square())
    return {layer: torch.stack(parts).sum().sqrt().item() for layer, parts in squares.items()}


def _layer_of(parameter: str) -> str:
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def _whole(norm: Tensor) -> Tensor:
    """The norm over all processes, where the tensor is spread over several."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


@torch.no_grad()
def _activation_rms(trainer: Trainer) -> dict[str, float]:
    """Of the residual stream after the embedding, each layer and the last norm."""
    found: dict[str, float] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        found[name] = output.float().square().mean().sqrt().item()

    watched = {
        name: module
        for name, module in trainer.model.named_modules()
        if name in ("tok_embeddings", "norm") or (name.startswith("layers.") and name.count(".") == 1)
    }
    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in watched.items()]
    try:
        row = torch.from_numpy(trainer.data.loader.batch(trainer.data_step)[:1]).long()
        with torch.compiler.set_stance("force_eager"), trainer.execution.autocast():
            trainer.model.hidden_states(row[:, :-1].to(trainer.execution.device))
    finally:
        for hook in hooks:
            hook.remove()
    return found
