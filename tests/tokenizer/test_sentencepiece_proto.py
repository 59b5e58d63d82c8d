import pytest
import sentencepiece
from hard_texts import hard_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from small_text import small_tokenizer

from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer
from camelid.tokenizer.sentencepiece_proto import read_model, write_model
from camelid.tokenizer.vocabulary import PieceType, ScoredVocabulary


def test_a_model_is_read_as_sentencepiece_reads_it() -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=small_tokenizer().model)
    file = read_model(small_tokenizer().model)
    assert file.is_bpe
    assert not file.changes_text
    vocabulary = file.vocabulary
    assert list(vocabulary.pieces) == [processor.id_to_piece(index) for index in range(400)]
    assert list(vocabulary.scores) == [processor.get_score(index) for index in range(400)]
    assert [index for index, kind in enumerate(vocabulary.types) if kind == PieceType.BYTE] == list(range(3, 259))
    assert vocabulary.types[:3] == [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL]
    assert vocabulary.has_space_prefix


def test_what_is_written_makes_the_same_ids() -> None:
    original = small_tokenizer()
    again = SentencePieceTokenizer(write_model(read_model(original.model).vocabulary, bos="<s>", eos="</s>"))
    assert read_model(again.model) == read_model(original.model)
    for text in hard_texts(1000, seed=14):
        assert again.encode(text, bos=True, eos=True) == original.encode(text, bos=True, eos=True)


def test_a_vocabulary_without_one_unknown_piece_is_refused() -> None:
    vocabulary = ScoredVocabulary(["<s>", "</s>"], [3, 3], [0.0, 0.0])
    with pytest.raises(ValueError, match="0 tokens for what is unknown, where one must be"):
        write_model(vocabulary, bos="<s>", eos="</s>")


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6)), min_size=1, max_size=4), st.booleans())
def test_no_corruption_does_more_than_refuse(changes: list[tuple[int, bytes]], is_cut: bool) -> None:
    data = bytearray(small_tokenizer().model)
    for place, change in changes:
        place %= len(data)
        data[place : place + (len(change) if not is_cut else 3)] = change
    try:
        tokenizer = SentencePieceTokenizer(bytes(data))
        tokenizer.decode([*tokenizer.encode("the llama </s> \U0001f999\0  x"), *range(tokenizer.vocab_size)])
        read_model(bytes(data))
    except ValueError as refusal:
        assert str(refusal)  # noqa: PT017
