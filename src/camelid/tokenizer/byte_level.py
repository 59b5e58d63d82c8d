r"""Byte-level vocabularies: the alphabet that writes bytes as characters, and the ways in which text is cut into words.

A way of cutting is a list of regular expressions (Oniguruma's, as the tokenizers library reads them), each applied to
what the ones before it left: matches and what lies between them become stretches of their own. GGUF files name it.
"""

from dataclasses import dataclass


def _alphabet() -> dict[int, str]:
    """Bytes that print stand for themselves, the others for characters from U+0100 on, in order (GPT-2)."""
    printing = (*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1))
    others = (byte for byte in range(256) if byte not in printing)
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_CHARACTERS = _alphabet()
_BYTES = {character: byte for byte, character in _CHARACTERS.items()}


def bytes_to_piece(data: bytes) -> str:
    """Bytes as a piece, written in the alphabet."""
    return "".join(map(_CHARACTERS.__getitem__, data))


def piece_to_bytes(piece: str) -> bytes:
    """What a piece stands for; one that is not written in the alphabet stands for itself."""
    try:
        return bytes(map(_BYTES.__getitem__, piece))
    except KeyError:
        return piece.encode()


@dataclass(frozen=True)
class PreTokenizer:
    """A way of cutting text into words."""

    patterns: tuple[str, ...]
    names: tuple[str, ...]
    """What GGUF files call it, first the name that Camelid writes."""
    ignores_merges: bool = False
    """Whether a word that is a piece becomes that piece, however it would be joined."""
    adds_bos: bool = False
    """Whether prompts begin with BOS where the file does not say."""


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
_QWEN2 = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SYMBOLS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
_TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SYMBOLS}"
_GPT4O = rf"{_CASED[0]}{_SUFFIXES}?|{_CASED[1]}{_SUFFIXES}?|\p{{N}}{{1,3}}|{_SYMBOLS}"
DIGIT = r"\p{N}"

PRE_TOKENIZERS = (
    PreTokenizer(
        (_LLAMA3,),
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        ignores_merges=True,
        adds_bos=True,
    ),
    PreTokenizer((_LLAMA3,), ("smaug-bpe", "dbrx")),
    PreTokenizer(
        (DIGIT, GPT2),
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    ),
    PreTokenizer(
        (GPT2,),
        (
            "gpt-2",
            "olmo",
            "mpt",
            "phi-2",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "mellum",
            "exaone4",
        ),
    ),
    PreTokenizer((_QWEN2,), ("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open")),
    PreTokenizer((_TEKKEN,), ("tekken",), ignores_merges=True, adds_bos=True),
    PreTokenizer((_GPT4O,), ("gpt-4o", "llama4", "kanana2")),
    PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", DIGIT),
        ("deepseek-coder",),
    ),
    PreTokenizer((r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9][0-9][0-9]"), ("falcon",)),
    PreTokenizer((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"), ("default",)),
)

_BY_NAME = {name: cut for cut in PRE_TOKENIZERS for name in cut.names}


def find_pre_tokenizer(name: str) -> PreTokenizer:
    """The way of cutting that goes by a name.

    Raises:
        ValueError: Camelid does not know the name.
    """
    if name not in _BY_NAME:
        raise ValueError(f"it cuts words in the way {name!r}, which is not one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def name_pre_tokenizer(patterns: tuple[str, ...], *, ignores_merges: bool) -> str:
    """The name by which GGUF files call a way of cutting.

    Raises:
        ValueError: they have none for it.
    """
    for cut in PRE_TOKENIZERS:
        if cut.patterns == patterns and cut.ignores_merges == ignores_merges:
            return cut.names[0]
    raise ValueError("it cuts words in a way that has no name in GGUF files")
