"""The engine on a Ray cluster: the bytes of the process pool, or a refusal where Ray is not installed.

CAMELID_RAY_PYTHON names a Python interpreter that has Ray and this package; else it is this one's turn. The test
installs nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from camelid.corpus.build import build_corpus
from camelid.corpus.engine import open_engine
from camelid.corpus.settings import CorpusSettings
from camelid.errors import UserError

_CHILD = Path(__file__).with_name("ray_child.py")


def test_a_missing_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'camelid\[cluster\]'"):
        open_engine("ray", 0)


def _has_ray(python: str) -> bool:
    return subprocess.run([python, "-c", "import ray"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_two_nodes_write_the_bytes_of_the_process_pool(shared_data: Path, tmp_path: Path) -> None:
    sources: list[dict[str, Any]] = [
        {"kind": "common_crawl", "name": "web", "path": "commoncrawl"},
        {"kind": "books", "name": "books", "path": "books"},
        {"kind": "stack_exchange", "name": "answers", "path": "stackexchange"},
    ]
    values = {"sources": sources, "num_workers": 2}
    wanted = build_corpus(CorpusSettings.model_validate(values), tmp_path / "pool", seed=0, base=shared_data).digest
    told = tmp_path / "settings.json"
    told.write_text(json.dumps({**values, "num_workers": 0, "engine": "ray"}))
    python = os.environ.get("CAMELID_RAY_PYTHON", sys.executable)
    command = [python, str(_CHILD), str(told), str(tmp_path / "ray"), str(shared_data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if _has_ray(python):
        assert done.returncode == 0, done.stderr[-3000:]
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer == {"digests": [wanted, wanted], "machines": 2}
    else:
        settings = CorpusSettings.model_validate_json(told.read_text())
        with pytest.raises(UserError, match="needs the package ray"):
            build_corpus(settings, tmp_path / "ray", seed=0, base=shared_data)
