"""Vocabularies as engines of the tokenizers library, which are also what a tokenizer.json says."""

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from camelid.tokenizer.byte_level import DIGIT, GPT2, PreTokenizer, find_pre_tokenizer
from camelid.tokenizer.vocabulary import (
    SPACE,
    MergedVocabulary,
    PieceType,
    ScoredVocabulary,
    Vocabulary,
    check_merges,
    find_pieces,
    merges_from_scores,
)


def build_engine(vocabulary: Vocabulary, *, bos: str | None) -> tokenizers.Tokenizer:
    """An engine with the vocabulary's control and user-defined pieces as added tokens.

    Args:
        bos: the piece that other programs are to put before a text, if any.

    Raises:
        ValueError: the vocabulary contradicts itself, or the library cannot do what it asks for.
    """
    match vocabulary:
        case MergedVocabulary():
            engine = _build_byte_level(vocabulary)
        case ScoredVocabulary():
            engine = _build_scored(vocabulary)
    if bos is not None:
        special = [(bos, vocabulary.special_tokens[bos])]
        engine.post_processor = processors.TemplateProcessing([bos, "$A"], [bos, "$A", f"{bos}:1", "$B:1"], special)
    _add(engine, vocabulary, (PieceType.UNKNOWN, PieceType.CONTROL), is_special=True)
    _add(engine, vocabulary, (PieceType.USER_DEFINED,), is_special=False)
    return engine


def _build_byte_level(vocabulary: MergedVocabulary) -> tokenizers.Tokenizer:
    check_merges(vocabulary.merges, set(vocabulary.pieces).difference(vocabulary.special_tokens))
    cut = find_pre_tokenizer(vocabulary.pre_tokenizer)
    ids = dict(zip(vocabulary.pieces, range(len(vocabulary.pieces)), strict=True))
    engine = tokenizers.Tokenizer(models.BPE(ids, list(vocabulary.merges), ignore_merges=cut.ignores_merges))
    engine.pre_tokenizer = pre_tokenizers.Sequence(list(_cutting_steps(cut)))
    engine.decoder = decoders.ByteLevel()
    return engine


def _cutting_steps(cut: PreTokenizer) -> Iterable[pre_tokenizers.PreTokenizer]:
    """The steps as the models' own files have them, which run faster than the same as plain expressions."""
    for pattern in cut.patterns:
        if pattern == DIGIT:
            yield pre_tokenizers.Digits(individual_digits=True)
        elif pattern != GPT2 or cut.patterns[-1] != GPT2:
            yield pre_tokenizers.Split(Regex(pattern), "isolated")
    yield pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut.patterns[-1] == GPT2)


def _build_scored(vocabulary: ScoredVocabulary) -> tokenizers.Tokenizer:
    ids = dict(zip(vocabulary.pieces, range(len(vocabulary.pieces)), strict=True))
    unknown = [piece for piece, index in ids.items() if vocabulary.types[index] == PieceType.UNKNOWN]
    engine = tokenizers.Tokenizer(
        models.BPE(
            ids, merges_from_scores(vocabulary), unk_token=next(iter(unknown), None), fuse_unk=True, byte_fallback=True
        )
    )
    marks = normalizers.Replace(" ", SPACE)
    to_text = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.has_space_prefix:
        engine.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), marks])
        to_text.append(decoders.Strip(" ", 1, 0))
    else:
        engine.normalizer = marks
    engine.decoder = decoders.Sequence(to_text)
    return engine


def _add(
    engine: tokenizers.Tokenizer, vocabulary: Vocabulary, kinds: tuple[PieceType, ...], *, is_special: bool
) -> None:
    """Adds pieces in the order of their ids; those that are in the model keep theirs."""
    pieces = find_pieces(vocabulary.pieces, vocabulary.types, kinds)
    tokens = [AddedToken(piece, normalized=False, special=is_special) for piece in pieces]
    (engine.add_special_tokens if is_special else engine.add_tokens)(tokens)
