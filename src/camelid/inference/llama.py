"""A loaded model that writes text: what `from camelid import Llama` gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from camelid.checkpoint import native
from camelid.errors import UserError
from camelid.inference.cache import KeyValueCache
from camelid.inference.sampler import Sampler, SamplingSettings
from camelid.model.config import ModelConfig
from camelid.model.llama import Transformer
from camelid.settings import validate
from camelid.tokenizer.load import Tokenizer, load_tokenizer


class Llama:
    """A model and its tokenizer.

    llama = Llama.load("runs/demo")
    for piece in llama.stream("def main", max_tokens=64):
        print(piece, end="")
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer):
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, model: str | Path, device: str = "cpu") -> "Llama":
        """Loads a model.

        Args:
            model: a checkpoint, or the folder of a run that trained one.

        Raises:
            UserError: there is no model, or its files are damaged.
        """
        directory = native.find_checkpoint(Path(model))
        config = native.read_config(directory)
        with torch.device("meta"):
            transformer = Transformer(config)
        transformer.to_empty(device=device)
        transformer.set_weights(native.load_weights(directory, config))
        return cls(transformer, load_tokenizer(directory / native.TOKENIZER_NAME))

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    def generate(self, prompt: str, **sampling: Any) -> str:
        """The whole continuation of `prompt`; settings as in `stream`."""
        return "".join(self.stream(prompt, **sampling))

    def stream(self, prompt: str, **sampling: Any) -> Iterator[str]:
        """Yields the continuation of `prompt` as it is written; pieces are whole characters.

        Args:
            sampling: fields of `SamplingSettings`.

        Raises:
            UserError: a setting is wrong, or the prompt fills the model's context.
        """
        settings = validate(SamplingSettings, sampling, "sampling")
        prompt_ids = self.tokenizer.encode(prompt, bos=True)
        decoder = self.tokenizer.stream_decoder(prompt_ids)
        for token in self.stream_ids(prompt_ids, settings):
            piece = decoder.push(token)
            if piece:
                yield piece
        rest = decoder.flush()
        if rest:
            yield rest

    @torch.inference_mode()
    def stream_ids(self, prompt: list[int], settings: SamplingSettings) -> Iterator[int]:
        """Yields token ids until EOS, which is not yielded, `max_tokens`, or the end of the context."""
        context = self.config.max_sequence_length
        if len(prompt) >= context:
            raise UserError(
                f"the prompt has {len(prompt):,} tokens and the model's context is {context:,}; shorten it to "
                f"{context - 1:,} at most"
            )
        weight = self.model.output.weight
        num_positions = min(context, len(prompt) + settings.max_tokens)
        cache = KeyValueCache(self.config, 1, num_positions, weight.device, weight.dtype)
        sampler = Sampler(settings)
        tokens = torch.tensor([prompt], device=weight.device)
        for _ in range(min(settings.max_tokens, context - len(prompt))):
            hidden = self.model.hidden_states(tokens, cache.length, cache.attend)
            cache.length += tokens.shape[1]
            token = sampler.choose(torch.mv(weight, hidden[0, -1]))
            if token == self.tokenizer.eos_id:
                return
            yield token
            tokens = torch.tensor([[token]], device=weight.device)
