"""`camelid bench`: the figures hold together, and what cannot be measured is refused."""

import json
from pathlib import Path

import pytest
from command_line import CommandLine


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_figures_hold_together(camelid: CommandLine, tiny_run: Path, runner: str) -> None:
    arguments = ("--batch", 1, "--batch", 3, "--prompt-tokens", 12, "--tokens", 4, "--rounds", 1, "--runner", runner)
    outcome = camelid("bench", tiny_run, *arguments, "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["runner"] == runner
    assert [batch["num_requests"] for batch in report["batches"]] == [1, 3]
    for batch in report["batches"]:
        assert batch["num_prompt_tokens"] == 12
        speed = batch["num_prompt_tokens"] / batch["seconds_to_first_token"]
        assert batch["prompt_tokens_per_second"] == pytest.approx(speed)
        assert batch["decode_tokens_per_second"] > 0
    limits = report["limits"]
    assert (limits is None) == (runner == "torch")
    if limits:
        assert 0 < limits["weight_bytes"] < report["peak_memory_bytes"]
        for batch in report["batches"]:
            steps = batch["decode_tokens_per_second"] / batch["num_requests"]
            share = steps * limits["weight_bytes"] / limits["read_bytes_per_second"]
            assert batch["share_of_reading"] == pytest.approx(share)
            assert 0 < batch["share_of_products"] < 1


def test_table_names_what_was_measured(camelid: CommandLine, tiny_run: Path) -> None:
    outcome = camelid("bench", tiny_run, "--batch", 2, "--prompt-tokens", 8, "--tokens", 2, "--rounds", 1)
    assert outcome.code == 0, outcome.err
    assert "written/s" in outcome.out
    assert "GB/s" in outcome.out


def test_more_requests_than_prompt_tokens(camelid: CommandLine, tiny_run: Path) -> None:
    assert "16 requests" in camelid.refuse("bench", tiny_run, "--batch", 16, "--prompt-tokens", 8)


def test_longer_than_the_context(camelid: CommandLine, tiny_run: Path) -> None:
    sentence = camelid.refuse("bench", tiny_run, "--batch", 1, "--prompt-tokens", 100_000)
    assert "100,000" in sentence
