"""Norms layer by layer: where a gradient vanishes or explodes shows here long before the loss tells."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
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
        parameters = dict(trainer.model.named_parameters())
        gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
        weight_norms, gradient_norms = _norms_by_layer(trainer, parameters), _norms_by_layer(trainer, gradients)
        for layer, weight_norm in weight_norms.items():
            norms.append({"layer": layer, "weight_norm": weight_norm, "grad_norm": gradient_norms[layer]})
            if layer in activations:
                norms[-1]["activation_rms"] = activations[layer]

    trainer.observe_gradients = observe
    try:
        yield norms
    finally:
        trainer.observe_gradients = None


def _norms_by_layer(trainer: Trainer, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    norms: dict[str, list[float]] = defaultdict(list)
    for name, norm in trainer.spread.norms(tensors).items():
        norms[_layer_of(name)].append(norm)
    return {layer: math.hypot(*parts) for layer, parts in norms.items()}


def _layer_of(parameter: str) -> str:
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


@torch.no_grad()
def _activation_rms(trainer: Trainer) -> dict[str, float]:
    """Of the residual stream after the embedding, each layer and the last norm."""
    squares: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        squares[name] = output.double().square().sum()

    watched = {
        name: module
        for name, module in trainer.model.named_modules()
        if name in ("tok_embeddings", "norm") or (name.startswith("layers.") and name.count(".") == 1)
    }
    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in watched.items()]
    try:
        row = torch.from_numpy(trainer.data.loader.batch(trainer.data_step)[:1]).long()[:, :-1]  # [1, T]
        with torch.compiler.set_stance("force_eager"), trainer.execution.autocast():
            trainer.spread.hidden_states(row.to(trainer.execution.device))
    finally:
        for hook in hooks:
            hook.remove()
    trainer.spread.forget_gathered()
    # All processes go through their first row, for they need one another; one row is measured.
    has_first_row = trainer.settings.mesh.data_share(trainer.processes.place.rank)[0] == 0
    totals = trainer.spread.total(torch.stack(list(squares.values())) * has_first_row, is_of_stream=True)
    rms = (totals / (row.numel() * trainer.config.dim)).sqrt()
    return dict(zip(squares, rms.tolist(), strict=True))
