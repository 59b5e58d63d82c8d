"""A little text to learn tokenizers from, the same on every machine."""

from functools import cache

from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.settings import TokenizerSettings
from camelid.tokenizer.train import train_tokenizer

_SENTENCE = "the llama climbs a steep mountain path while seventy snow clouds gather over quiet lakes"
_WORDS = _SENTENCE.split()
_CODE = 'class Llama:\n    """A model."""\n\n    def run(self, x=10):\n        return self.model(x + 1)\n'


def texts(count: int = 60) -> list[str]:
    """Sentences and code; no two texts are alike."""
    prose = [" ".join(_WORDS[(i * k + k) % len(_WORDS)] for k in range(1, 12)) + "." for i in range(count)]
    return [f"{line}\n{line.title()}\n\n{_CODE.replace('10', str(i))}" for i, line in enumerate(prose)]


@cache
def small_tokenizer() -> SentencePieceTokenizer:
    """A tokenizer of 400 pieces; most of Unicode is bytes to it."""
    return SentencePieceTokenizer(train_tokenizer(texts(), TokenizerSettings(vocab_size=400), seed=1))
