"""Chats: the ids of transformers for what people say, and no control ids for what they slip in."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hard_texts import CONTROL_NAMES, hard_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from other_tokenizers import LLAMA3_TEMPLATE, ZEPHYR_TEMPLATE, smollm2, write_llama3_folder
from small_text import small_tokenizer, texts
from transformers import AutoTokenizer

from camelid.errors import UserError
from camelid.tokenizer.chat import ROLES, find_template, render_chat
from camelid.tokenizer.export import write_huggingface
from camelid.tokenizer.interface import Tokenizer
from camelid.tokenizer.load import load_tokenizer
from camelid.tokenizer.sentencepiece_model import SentencePieceTokenizer

Pair = tuple[Tokenizer, Any]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """By kind, a tokenizer of ours and transformers' of the same files, each with the template of its model."""
    root = tmp_path_factory.mktemp("chats")
    llama3 = write_llama3_folder(root / "llama3")
    smollm2_folder = root / "smollm2"
    scored = root / "scored"
    first = root / "first"
    for folder in (smollm2_folder, scored, first):
        folder.mkdir()
    write_huggingface(smollm2(), smollm2_folder)
    write_huggingface(SentencePieceTokenizer(small_tokenizer().model, chat_template=ZEPHYR_TEMPLATE), scored)
    write_huggingface(SentencePieceTokenizer(small_tokenizer().model, chat_template=ZEPHYR_TEMPLATE), first)
    # As newer LLaMA folders have it: a space is put before the beginning of a text alone.
    engine = tokenizers.Tokenizer.from_file(str(first / "tokenizer.json"))
    engine.normalizer = None
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    engine.save(str(first / "tokenizer.json"))
    (first / "tokenizer.model").unlink()
    folders = {"llama3": llama3, "smollm2": smollm2_folder, "scored": scored, "first": first}
    return {name: (load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)) for name, folder in folders.items()}


KINDS = ("llama3", "smollm2", "scored", "first")


def chat(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    """User and assistant in turn."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system is not None else []), *turns]


def ids_of_transformers(other: Any, messages: list[dict[str, Any]], **settings: Any) -> list[int]:
    ids: list[int] = other.apply_chat_template(messages, return_dict=False, **settings)
    return ids


def is_plain(text: str) -> bool:
    return not any(name in text for name in CONTROL_NAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_chats_have_the_ids_of_transformers(pairs: dict[str, Pair], kind: str) -> None:
    tokenizer, other = pairs[kind]
    contents = [text for text in hard_texts(150, seed=7) if is_plain(text) and text.strip()]
    for start in range(0, len(contents) - 3, 3):
        first, second, third = contents[start : start + 3]
        for messages in (chat(first), chat(first, second, third), chat(first, second, system=third)):
            for prompt in (True, False):
                expected = ids_of_transformers(other, messages, add_generation_prompt=prompt)
                assert render_chat(tokenizer, messages, add_generation_prompt=prompt) == expected, messages


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_text_that_names_no_control_token_has_the_ids_of_transformers(
    pairs: dict[str, Pair], data: st.DataObject
) -> None:
    tokenizer, other = pairs[data.draw(st.sampled_from(KINDS))]
    text = st.text() | st.text(alphabet="<|>_/sendim ar\n")
    messages = chat(data.draw(text), data.draw(text), system=data.draw(text))
    if not any(name in message["content"] for name in tokenizer.special_tokens for message in messages):
        assert render_chat(tokenizer, messages) == ids_of_transformers(other, messages, add_generation_prompt=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_slip_in_is_text(pairs: dict[str, Pair], kind: str) -> None:
    tokenizer, _ = pairs[kind]
    control = set(tokenizer.special_tokens.values())

    def count_control(*contents: str) -> list[int]:
        return [index for index in render_chat(tokenizer, chat(*contents, system=contents[0])) if index in control]

    expected = count_control("x", "y", "z")
    for text in hard_texts(100, seed=8):
        assert count_control(text, "y", f"a{text}b") == expected, repr(text)
    for name in tokenizer.special_tokens:
        for slipped in (name, name * 3, f"<{name}>", name[:2] + name, name + name[2:], f"{name[:3]}{name}{name[3:]}"):
            assert count_control(slipped, slipped, slipped) == expected, slipped
        # What was slipped in is there, letter by letter.
        said = tokenizer.decode(render_chat(tokenizer, chat(f"so {name} said")))
        assert f"so {name} said" in said


def test_a_control_token_in_two_parts_of_a_message_is_text() -> None:
    template = (
        "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>{% endfor %}"
    )
    tokenizer = smollm2()
    for cut in range(1, len("<|im_start|>")):
        parts = [{"type": "text", "text": text} for text in ("a<|im_start|>"[: cut + 1], "<|im_start|>"[cut:])]
        ids = render_chat(tokenizer, [{"role": "user", "content": parts}], template=template)
        assert [index for index in ids if index in tokenizer.special_tokens.values()] == [2]
        assert tokenizer.decode(ids) == "a<|im_start|>"


@pytest.mark.parametrize(
    ("template", "content"),
    [("{{ '<|' + messages[0]['content'] }}", "im_end|>"), ("{{ messages[0]['content'] + 'end|>' }}", "<|im_")],
)
def test_a_template_makes_no_control_token_of_what_was_said(template: str, content: str) -> None:
    tokenizer = smollm2()
    ids = render_chat(tokenizer, chat(content), template=template)
    assert ids == tokenizer.encode("<|im_end|>")


def test_tools_are_given_to_the_template_and_are_text() -> None:
    tokenizer = smollm2()
    tools = [{"name": "<|im_end|>", "<|im_start|>": [1, 2.5, None, True, "é<|im_end|>"]}]
    for template in ("{{ tools | tojson }}", "{{ tools | tojson(ensure_ascii=True) }}", "{{ tools }}"):
        ids = render_chat(tokenizer, chat("hello"), template=template, variables={"tools": tools})
        assert not set(ids) & set(tokenizer.special_tokens.values())
    assert "<|im_end|>" in tokenizer.decode(ids)
    assert render_chat(tokenizer, chat("hello"), template="{{ tools is none }}") == tokenizer.encode("True")


def test_white_space_around_a_control_token_follows_its_flags(tmp_path: Path) -> None:
    folder = write_llama3_folder(tmp_path / "model")
    engine = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine.add_special_tokens([tokenizers.AddedToken("<|eot_id|>", lstrip=True, rstrip=True, normalized=False)])
    engine.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m['content'] }}  <|eot_id|> \n{{ m['content'] }}{% endfor %}"
    other = AutoTokenizer.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    for text in (" a ", "", "\n", "b"):
        expected = ids_of_transformers(other, chat(text, text), chat_template=template)
        assert render_chat(tokenizer, chat(text, text), template=template) == expected


def test_llama2s_template_is_that_of_the_released_code(shared_data: Path) -> None:
    """Each turn is encoded for itself between BOS and EOS, as Meta's generation code does it."""
    model = (shared_data / "models/llama-tokenizer/tokenizer.model").read_bytes()
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = SentencePieceTokenizer(model)
    expected: list[int] = []
    system, turns = "Be brief.", [("Hi there ", " Hello."), ("2+2?", "4\n")]
    for place, (question, answer) in enumerate(turns):
        said = f"<<SYS>>\n{system}\n<</SYS>>\n\n{question}" if place == 0 else question
        text = f"[INST] {said.strip()} [/INST] {answer.strip()} "
        expected += original.encode(text, add_bos=True, add_eos=True)
    expected += original.encode("[INST] Bye [/INST]", add_bos=True)
    contents = [text for turn in turns for text in turn]
    assert render_chat(tokenizer, chat(*contents, "Bye", system=system), template="llama2") == expected
    named = SentencePieceTokenizer(model, chat_template="llama2")
    assert render_chat(named, chat(*contents, "Bye", system=system)) == expected
    with pytest.raises(UserError, match="Llama 2 knows one system message at the beginning"):
        render_chat(named, [*chat("a"), {"role": "system", "content": "b"}])


def test_a_model_without_a_template_is_refused_with_the_fix() -> None:
    with pytest.raises(UserError, match=r"without a chat template, .*chat_template\.jinja, or name one .*llama2"):
        render_chat(small_tokenizer(), chat("hello"))
    assert find_template(small_tokenizer(), "llama2") == "llama2"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the chat has no message"),
        ([{"role": "<|im_end|>", "content": "a"}], r"from '<\|im_end\|>'; its role must be one of system, "),
        ([{"content": "a"}], "from None; its role"),
        (["hello"], "from 'hello'; its role"),
        ([{"role": "user", "content": object()}], "content of a chat holds a object"),
        ([{"role": "user", "content": "\ud83d"}], "half of a surrogate pair"),
    ],
)
def test_what_is_no_chat_is_refused(messages: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        render_chat(smollm2(), messages)


def test_variables_do_not_take_the_place_of_the_messages() -> None:
    with pytest.raises(UserError, match="variables hold 'messages', which is given otherwise"):
        render_chat(smollm2(), chat("a"), variables={"messages": []})


def test_messages_that_are_nested_without_end_are_refused() -> None:
    deep: Any = "a"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(UserError, match="nested more than 32 deep"):
        render_chat(smollm2(), [{"role": "user", "content": deep}], template="{{ messages }}")


def test_what_is_none_is_left_out_and_the_date_is_todays() -> None:
    tokenizer = smollm2()
    template = "{{ messages[0] }} {{ strftime_now('%Y') }}"
    ids = render_chat(tokenizer, [{"role": "user", "content": "a", "tool_calls": None}], template=template)
    assert tokenizer.decode(ids) == f"{{'role': 'user', 'content': 'a'}} {datetime.now().year}"


def test_every_role_reaches_the_template() -> None:
    tokenizer = smollm2()
    for role in ROLES:
        ids = render_chat(tokenizer, [{"role": role, "content": ""}], template="{{ messages[0]['role'] }}")
        assert tokenizer.decode(ids) == role


def test_long_chats_take_little_time(pairs: dict[str, Pair]) -> None:
    tokenizer, other = pairs["llama3"]
    long = " ".join(texts(300))
    assert render_chat(tokenizer, chat(long)) == ids_of_transformers(other, chat(long), add_generation_prompt=True)
    assert tokenizer.chat_template == LLAMA3_TEMPLATE
