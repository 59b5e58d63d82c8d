"""Bad input gets one sentence on standard error and exit code 2, never a traceback."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine
from tiny import write_tiny_recipe

from camelid.cli.options import name_tokenizers


@pytest.fixture
def own_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run with its recipe and texts, whose times of change are kept."""
    shutil.copytree(tiny_run.parent, tmp_path / "tiny", copy_function=shutil.copy2)
    return tmp_path / "tiny" / "run"


def test_misspelt_key(camelid: CommandLine, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    assert "steps" in camelid.refuse("run", recipe, "--set", "train.stepps=3")


def test_missing_folder(camelid: CommandLine, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    shutil.rmtree(tmp_path / "text")
    sentence = camelid.refuse("run", recipe, "--out", tmp_path / "run")
    assert "'notes'" in sentence
    assert "does not exist" in sentence


def test_corpus_without_usable_text(camelid: CommandLine, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    sentence = camelid.refuse("run", recipe, "--out", tmp_path / "run", "--set", "corpus.min_characters=90000")
    assert "no usable text" in sentence
    assert "30 too short" in sentence


def test_vocabulary_larger_than_the_text_supports(camelid: CommandLine, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    sentence = camelid.refuse("run", recipe, "--out", tmp_path / "run", "--set", "tokenizer.vocab_size=30000")
    assert "vocab_size" in sentence


def test_sequence_longer_than_the_data(camelid: CommandLine, own_run: Path) -> None:
    recipe = own_run.parent / "tiny.toml"
    longer = ["train.sequence_length=1000000", "train.batch_tokens=1000000", "model.max_sequence_length=1000000"]
    settings = [word for setting in longer for word in ("--set", setting)]
    assert "sequence length 1,000,000" in camelid.refuse("train", recipe, "--out", own_run, "--rebuild", *settings)


def test_checkpoint_of_another_shape(camelid: CommandLine, own_run: Path) -> None:
    config = own_run / "train" / "checkpoints" / "step-00000008" / "config.json"
    tree = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(tree | {"ffn_hidden_dim": 96}), encoding="utf-8")
    sentence = camelid.refuse("generate", "the", "--model", own_run)
    assert "feed_forward" in sentence
    assert "64" in sentence
    assert "96" in sentence


def test_truncated_and_changed_shards(camelid: CommandLine, own_run: Path) -> None:
    shard = next((own_run / "dataset" / "train").glob("*.bin"))
    whole = shard.read_bytes()
    again = ("train", own_run.parent / "tiny.toml", "--out", own_run)
    shard.write_bytes(whole[:-2])
    assert shard.name in camelid.refuse(*again)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shutil.rmtree(own_run / "train")
    sentence = camelid.refuse(*again)
    assert shard.name in sentence
    assert "SHA-256" in sentence


def test_disk_too_full_for_a_checkpoint(camelid: CommandLine, own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(own_run / "train")
    usage = shutil.disk_usage(own_run)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=1000))
    sentence = camelid.refuse("train", own_run.parent / "tiny.toml", "--out", own_run)
    assert "1,000 free" in sentence


@pytest.mark.parametrize(("command", "most_bytes"), [("corpus build", 4096), ("train", 65536)])
def test_disk_that_is_full_in_the_middle_of_writing(own_run: Path, command: str, most_bytes: int) -> None:
    shutil.rmtree(own_run / "train")
    if command == "corpus build":
        shutil.rmtree(own_run / "corpus")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    words = [*command.split(), str(own_run.parent / "tiny.toml"), "--out", str(own_run)]
    child = subprocess.run(
        [sys.executable, "-m", "camelid", *words], preexec_fn=limit, capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 2
    assert "could not be written: " in child.stderr.splitlines()[-1]
    assert "Traceback" not in child.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("run", "dmeo"), "no recipe"),
        (("generate", "x", "--model", "nowhere"), "no such model"),
        (("run", "demo", "--set", "train.steps"), "key=value"),
        (("run", "demo", "--nonsense"), "nonsense"),
        (("report", "nowhere"), "nowhere"),
    ],
)
def test_wrong_words(camelid: CommandLine, tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    assert part in camelid.refuse(*arguments)


def test_prompt_beyond_the_context(camelid: CommandLine, tiny_run: Path) -> None:
    assert "context is 32" in camelid.refuse("generate", "grass " * 40, "--model", tiny_run)


def test_changed_setting_is_named_and_rebuilding_keeps_the_old_product(camelid: CommandLine, own_run: Path) -> None:
    changed = ("run", own_run.parent / "tiny.toml", "--out", own_run, "--set", "train.steps=6")
    sentence = camelid.refuse(*changed)
    assert "train" in sentence
    assert "steps was 8 and is now 6" in sentence
    assert camelid(*changed, "--rebuild").code == 0
    assert (own_run / "superseded" / "train-1" / "manifest.json").is_file()
    assert (own_run / "train" / "checkpoints" / "step-00000006").is_dir()


def test_second_run_builds_nothing(camelid: CommandLine, own_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_run.rglob("*") if path.is_file()}
    assert camelid("run", own_run.parent / "tiny.toml", "--out", own_run).code == 0
    assert {path: path.stat().st_mtime_ns for path in own_run.rglob("*") if path.is_file()} == before


def test_changed_text_is_noticed(camelid: CommandLine, own_run: Path) -> None:
    (own_run.parent / "text" / "note-00.txt").write_text("Something else entirely is written here now.")
    assert "raw:notes" in camelid.refuse("run", own_run.parent / "tiny.toml", "--out", own_run)


def test_dry_run_says_what_it_takes_and_makes_nothing(camelid: CommandLine, tmp_path: Path) -> None:
    outcome = camelid("run", write_tiny_recipe(tmp_path), "--out", tmp_path / "run", "--dry-run")
    assert outcome.code == 0
    for word in ("parameters", "memory", "training time", "30 files", "nothing yet"):
        assert word in outcome.out
    assert not (tmp_path / "run").exists()


def test_dry_run_names_missing_text(camelid: CommandLine, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    shutil.rmtree(tmp_path / "text")
    outcome = camelid("run", recipe, "--dry-run")
    assert outcome.code == 0
    assert "missing: " in outcome.out


def test_a_folder_called_like_a_recipe_does_not_hide_it(
    camelid: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert camelid("run", "demo", "--dry-run").code == 0
    assert "no recipe './demo'" in camelid.refuse("run", "./demo", "--dry-run")


def test_generate_prints_the_continuation_alone(camelid: CommandLine, tiny_run: Path) -> None:
    words = ("generate", "The llama", "--model", tiny_run, "--max-tokens", 6, "--seed", 4)
    first, second = camelid(*words), camelid(*words)
    assert first.code == 0
    assert first.out == second.out
    record = json.loads(camelid(*words, "--json").out)
    assert first.out == record["text"] + "\n"
    assert record["seed"] == 4


def test_trace_names_the_documents_of_a_step(camelid: CommandLine, tiny_run: Path) -> None:
    recipe = tiny_run.parent / "tiny.toml"
    rows = camelid("dataset", "trace", recipe, "--out", tiny_run, "--step", 2, "--json").out.splitlines()
    assert len(rows) == 4
    for row in rows:
        for document in json.loads(row)["documents"]:
            assert (tiny_run.parent / "text" / document["path"]).is_file()


def test_doctor_report_and_compare(camelid: CommandLine, tiny_run: Path, tmp_path: Path) -> None:
    assert "torch" in camelid("doctor").out
    page = tmp_path / "page.html"
    assert camelid("report", tiny_run, "--output", page).code == 0
    assert "</html>" in page.read_text(encoding="utf-8")
    compared = camelid("tokenizer", "compare", tiny_run, tiny_run / "tokenizer" / "tokenizer.model").out
    assert [line.split()[:2] for line in compared.splitlines()[1:]] == [["camelid", "notes"], ["tokenizer", "notes"]]


def test_doctor_says_how_to_get_an_extra(camelid: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camelid.cli.doctor._is_installed", lambda name: name != "kenlm")
    out = camelid("doctor").out
    assert "missing: kenlm" in out
    assert "pip install 'camelid[corpus]'" in out


def test_compared_tokenizers_have_short_names() -> None:
    paths = [Path("a/llama/tokenizer.model"), Path("b/own.model")]
    assert name_tokenizers(paths) == {"llama": paths[0], "own.model": paths[1]}
    paths = [Path("a/llama/tokenizer.model"), Path("b/llama/tokenizer.model")]
    assert name_tokenizers(paths) == {str(path): path for path in paths}


def test_a_spike_is_traced_to_the_documents_that_stood_out(
    camelid: CommandLine, tiny_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    words = ("dataset", "trace", tiny_run.parent / "tiny.toml", "--out", run)
    assert "the training met no spike" in camelid.refuse(*words, "--spike", 1)
    assert "say what to trace" in camelid.refuse(*words)
    assert "say what to trace" in camelid.refuse(*words, "--spike", 1, "--step", 2)
    rows = [json.loads(line) for line in camelid(*words, "--step", 5, "--json").out.splitlines()]
    blamed = rows[2]["documents"][0]
    part = {**blamed, "data_step": 5, "sample": 2, "source": rows[2]["source"], "nats_per_token": 8.25}
    spike = {"kind": "spike", "step": 6, "reason": "why", "rolled_back_to": 4, "skipped": [5], "documents": [part]}
    (run / "train" / "spikes.jsonl").write_text(json.dumps(spike) + "\n", encoding="utf-8")
    outcome = camelid(*words, "--spike", 1)
    assert outcome.out.splitlines() == [
        f"sample 2: notes, epoch {rows[2]['epoch']}",
        f"  {blamed['num_tokens']:>6,} tokens  8.25 nats each  {blamed['path']}  {blamed['url']}",
    ]
    assert "step 6: why" in outcome.err
    assert "name one from 1 to 1" in camelid.refuse(*words, "--spike", 2)
    (run / "train" / "spikes.jsonl").write_text('{"kind": "spike", "step": 6}\n', encoding="utf-8")
    assert "does not say what was done" in camelid.refuse(*words, "--spike", 1)
