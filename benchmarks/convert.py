"""Speed and memory of conversion beside the disk's own speed: python benchmarks/convert.py --out results/convert.json

A model of random bfloat16 weights, about 3 GB, goes from Hugging Face's format to Meta's in 8 shards, back, and to the
native format, each in a process of its own whose anonymous memory is limited (RLIMIT_DATA). Before each conversion the
disk is measured with the same number of bytes: a file written and forced to disk, and read again with an empty cache.
The time of a conversion ends when the product is published: written, hashed, forced to disk and renamed.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT_BYTES = 1_500_000_000
PIECE_BYTES = 1 << 24
WAYS = (("hf", "meta", "meta", 8), ("meta", "back", "huggingface", 1), ("hf", "native", "native", 1))

CHILD = """
import json, resource, sys, threading, time
from pathlib import Path
from camelid.checkpoint import hf_safetensors, meta_pth
from camelid.checkpoint.convert import convert

def anonymous_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.01):
        peak[0] = max(peak[0], anonymous_bytes())

source, target, format_name, num_shards, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
idle = anonymous_bytes()
peak, done = [0], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
model = (hf_safetensors if Path(source, "config.json").exists() else meta_pth).read(Path(source))
convert(model, Path(target), format_name, num_shards=int(num_shards))
seconds = time.perf_counter() - start
done.set()
thread.join()
print(json.dumps({"seconds": seconds, "idle_bytes": idle, "peak_bytes": peak[0]}))
"""


def write_model(folder: Path, num_layers: int) -> tuple[int, int]:
    """A folder of random weights; returns the bytes of all tensors and of the largest."""
    from camelid.checkpoint import hf_safetensors
    from camelid.checkpoint.stored import StoredModel, StoredTensor
    from camelid.encoding import ENCODINGS
    from camelid.errors import UserError
    from camelid.model.config import ModelConfig
    from camelid.planning.shapes import parameter_shapes

    config = ModelConfig(
        dim=2048, num_layers=num_layers, num_heads=32, num_kv_heads=8, ffn_hidden_dim=8192, vocab_size=32000
    )
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> Callable[[], NDArray[np.uint8]]:
        return lambda: rng.integers(0, 256, 2 * int(np.prod(shape)), np.uint8)

    def no_tokenizer() -> Any:
        raise UserError("random weights have no tokenizer")

    shapes = parameter_shapes(config)
    tensors = {name: StoredTensor(name, shape, ENCODINGS["bf16"], draw(shape)) for name, shape in shapes.items()}
    model = StoredModel(folder, "random", config, tensors, no_tokenizer)
    hf_safetensors.write(model, folder)
    sizes = [ENCODINGS["bf16"].num_bytes(shape) for shape in shapes.values()]
    return sum(sizes), max(sizes)


def measure_disk(folder: Path, num_bytes: int) -> dict[str, float]:
    """Bytes a second of writing a file and forcing it to disk, of reading it with an empty cache, and of hashing."""
    path = folder / "disk"
    piece = np.random.default_rng(1).integers(0, 256, PIECE_BYTES, np.uint8)
    num_pieces = num_bytes // PIECE_BYTES
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(num_pieces):
            file.write(piece.data)
        file.flush()
        os.fsync(file.fileno())
    written = time.perf_counter() - start
    forget(path)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as source:
        while source.read(PIECE_BYTES):
            pass
    read = time.perf_counter() - start
    path.unlink()
    start = time.perf_counter()
    for _ in range(16):
        hashlib.sha256(piece.data).digest()
    hashed = time.perf_counter() - start
    total = num_pieces * PIECE_BYTES
    return {"write": total / written, "read": total / read, "sha256": 16 * PIECE_BYTES / hashed}


def forget(path: Path) -> None:
    """Takes a file out of the system's cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_conversion(folder: Path, source: str, target: str, format_name: str, num_shards: int) -> dict[str, Any]:
    for path in (folder / source).iterdir():
        forget(path)
    arguments = [str(folder / source), str(folder / target), format_name, str(num_shards), str(LIMIT_BYTES)]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def say(row: dict[str, Any]) -> None:
    disk = row["disk_bytes_per_second"]
    needed = row["peak_bytes"] - row["idle_bytes"]
    print(
        f"{row['way']:20} {row['bytes_per_second'] / 1e9:.3f} GB/s; needed {needed / 1e6:.0f} MB over the idle "
        f"{row['idle_bytes'] / 1e6:.0f} MB; the disk writes {disk['write'] / 1e9:.3f} and reads "
        f"{disk['read'] / 1e9:.3f} GB/s, SHA-256 takes {disk['sha256'] / 1e9:.3f} GB/s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=24, help="layers of the model, 120 MB each")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        num_bytes, largest = write_model(folder / "hf", arguments.layers)
        print(f"{num_bytes / 1e9:.2f} GB, largest tensor {largest / 1e6:.0f} MB, limit {LIMIT_BYTES / 1e9:.1f} GB")
        rows = []
        for source, target, format_name, num_shards in WAYS:
            disk = measure_disk(folder, num_bytes)
            row = measure_conversion(folder, source, target, format_name, num_shards)
            row |= {"way": f"{source} to {format_name}", "num_shards": num_shards, "disk_bytes_per_second": disk}
            row["bytes_per_second"] = num_bytes / row["seconds"]
            rows.append(row)
            say(row)
    if arguments.out:
        machine = {"processor": platform.processor() or platform.machine(), "num_cpus": os.cpu_count()}
        tree = {
            "num_bytes": num_bytes,
            "largest_bytes": largest,
            "limit_bytes": LIMIT_BYTES,
            "machine": machine,
            "ways": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
