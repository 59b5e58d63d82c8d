"""Chats: what is learnt of them, how they lie in rows, and that rows of several teach what each alone teaches."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import CommandLine
from hypothesis import given
from hypothesis import strategies as st

from camelid import Llama
from camelid.artifact import read_manifest
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.model.initialize import initialize
from camelid.model.llama import Transformer
from camelid.tokenizer.load import load_tokenizer
from camelid.training.chats import IGNORED, Chat, ChatLoader, pack, read_chats, split_held_out, tokenize_chat
from camelid.training.instruct import DocumentAttention

_CONFIG = ModelConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_hidden_dim=48, vocab_size=60)


def _chat(length: int, seed: int) -> Chat:
    rng = np.random.default_rng(seed)
    is_answer = rng.random(length) < 0.5
    is_answer[-1] = True
    return Chat(rng.integers(0, 60, length), is_answer, 10)


def _chats(tmp_path: Path, *chats: list[tuple[str, str]]) -> Path:
    path = tmp_path / "chats.jsonl"
    lines = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in chats]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_answers_and_their_ends_are_marked(tiny_run: Path, tmp_path: Path) -> None:
    path = _chats(tmp_path, [("user", "the llama"), ("assistant", "sleeps"), ("user", "over"), ("assistant", "grass")])
    tokenizer = load_tokenizer(tiny_run / "tokenizer")
    [messages] = read_chats(path)
    chat = tokenize_chat(tokenizer, messages, "llama2")
    answers, answer = [], []
    for token, is_answer in zip(chat.tokens.tolist(), chat.is_answer.tolist(), strict=True):
        if is_answer:
            answer.append(token)
        elif answer:
            answers.append(answer)
            answer = []
    answers.append(answer)
    assert [tokenizer.decode(ids[:-1]).strip() for ids in answers] == ["sleeps", "grass"]
    assert [ids[-1] for ids in answers] == [tokenizer.eos_id] * 2
    assert chat.num_answer_bytes == len("sleepsgrass")


@pytest.mark.parametrize(
    "line",
    ["[]", "{", '{"messages": 3}', '{"messages": []}', '{"messages": [{"role": "user", "content": "a"}]}', "9" * 5000],
)
def test_what_is_no_chat_is_refused_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": [{"role": "assistant", "content": "a"}]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2"):
        list(read_chats(path))


def test_a_template_that_rewrites_the_beginning_is_refused(tiny_run: Path) -> None:
    template = "{{ messages|length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(UserError, match="cannot be told from prompts"):
        tokenize_chat(load_tokenizer(tiny_run / "tokenizer"), messages, template)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=12), st.integers(4, 24))
def test_every_chat_lies_whole_in_one_row(lengths: list[int], length: int) -> None:
    chats = [_chat(size, seed) for seed, size in enumerate(lengths)]
    rows = pack(chats, length)
    assert rows.shape[1:] == (3, length)
    wanted = sorted(
        (tuple(c.tokens[:-1]), tuple(np.where(c.is_answer[1:], c.tokens[1:], IGNORED)))
        for c in (chat.cut(length + 1) for chat in chats)
    )
    found = []
    for inputs, targets, positions in rows:
        starts = [*np.flatnonzero(positions == 0), length]
        for start, end in pairwise(starts):
            assert positions[start:end].tolist() == list(range(end - start))
            found.append((tuple(inputs[start:end]), tuple(targets[start:end])))
    for piece in wanted:
        found.remove(piece)
    assert all(target == IGNORED for _, targets in found for target in targets)


def test_packed_rows_teach_what_chats_alone_teach() -> None:
    model = Transformer(_CONFIG).double()
    initialize(model, 3)
    chats = [_chat(size, size) for size in (5, 9, 17, 3, 12)]
    rows = torch.from_numpy(pack(chats, 20))
    inputs, targets, positions = rows.unbind(1)
    attention = DocumentAttention()
    attention.set_positions(positions)
    hidden = model.hidden_states(inputs, attend=attention, positions=positions)
    logits = F.linear(hidden, model.output.weight)
    packed = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    found = torch.autograd.grad(packed, list(model.parameters()))
    alone = torch.zeros((), dtype=torch.float64)
    for chat in chats:
        tokens = torch.from_numpy(chat.tokens)
        losses = F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="none")
        alone = alone + losses[torch.from_numpy(chat.is_answer[1:])].sum()
    assert packed.item() == pytest.approx(alone.item(), rel=1e-12)
    for ours, theirs in zip(found, torch.autograd.grad(alone, list(model.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_batches_are_those_of_their_step_and_every_epoch_has_every_chat() -> None:
    chats = [_chat(size, size) for size in range(4, 14)]
    loader, again = (ChatLoader(chats, 16, 3, seed=2) for _ in range(2))
    batches = [loader.batch(step) for step in range(8)]
    for step in (7, 2, 0):
        np.testing.assert_array_equal(again.batch(step), batches[step])
    num_learnt = sum(int(chat.is_answer[1:].sum()) for chat in chats)
    rows = np.concatenate(batches)
    num_rows = len(pack([chats[i] for i in np.random.default_rng([2, 0]).permutation(10)], 16))
    assert int((rows[:num_rows, 1] != IGNORED).sum()) == num_learnt


def test_held_out_chats_are_a_share_that_does_not_depend_on_the_others() -> None:
    chats = [_chat(8, seed) for seed in range(400)]
    learnt, held_out = split_held_out(chats, 0.25)
    assert len(learnt) + len(held_out) == 400
    assert 60 < len(held_out) < 140
    assert [c.tokens.tolist() for c in split_held_out(chats[:50], 0.25)[1]] == [
        c.tokens.tolist() for c in held_out if any(c is other for other in chats[:50])
    ]


def _recipe(tmp_path: Path, model: Path, **train: Any) -> Path:
    values = {"steps": 4, "sequence_length": 32, "batch_tokens": 128, "warmup_steps": 1, "learning_rate": 1e-2}
    fixed = {"precision": "float32", "compile": "no", "num_threads": 1, "held_out_interval": 100}
    path = tmp_path / "answers.toml"
    lines = ['name = "answers"', "[instruct]", f"model = {json.dumps(str(model))}", 'chats = ["chats.jsonl"]']
    lines += ['template = "llama2"', "held_out_share = 0.2", "[train]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in {**values, **fixed, **train}.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_what_chats_cannot_have_is_refused(tiny_run: Path, tmp_path: Path, camelid: CommandLine) -> None:
    _chats(tmp_path, [("user", "the llama"), ("assistant", "sleeps")])
    path = str(_recipe(tmp_path, tiny_run))
    out = ["--out", str(tmp_path / "run")]
    assert "--rebuild" in camelid.refuse("train", path, "--rebuild", *out)
    assert "train.mesh" in camelid.refuse("train", path, *out, "--set", "train.mesh.shard=2")
    assert "train.recompute" in camelid.refuse("train", path, *out, "--set", "train.recompute=by_hand")
    assert "leaves none to measure on" in camelid.refuse("train", path, *out, "--set", "instruct.held_out_share=1e-9")


def test_nothing_is_computed_again_unless_told(tiny_run: Path, tmp_path: Path, camelid: CommandLine) -> None:
    _chats(tmp_path, *([[("user", f"the llama {n}"), ("assistant", "sleeps")] for n in range(30)]))
    path = _recipe(tmp_path, tiny_run, steps=2)
    for changes, expected in (((), "none"), (("--set", "train.recompute=selective"), "selective")):
        assert camelid("train", path, "--out", tmp_path / expected, *changes).code == 0
        assert read_manifest(tmp_path / expected / "train").settings["recompute"] == expected


@pytest.mark.slow
def test_a_tiny_model_learns_to_answer(tiny_run: Path, tmp_path: Path, camelid: CommandLine) -> None:
    answers = {"the llama": "sleeps over grass", "the river": "hears snow", "a stone": "sees the cloud", "wool": "hill"}
    _chats(tmp_path, *([[("user", f"{k} {n}"), ("assistant", v)] for n in range(30) for k, v in answers.items()]))
    path = _recipe(tmp_path, tiny_run, steps=150)
    assert camelid("train", path, "--out", tmp_path / "run").code == 0
    llama = Llama.load(tmp_path / "run")
    for prompt, answer in answers.items():
        messages = [{"role": "user", "content": f"{prompt} 7"}]
        assert "".join(llama.chat(messages, max_tokens=24, temperature=0)).strip() == answer
