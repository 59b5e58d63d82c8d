"""Builds a corpus on a local Ray cluster of two nodes, for an interpreter with Ray: ray_child.py SETTINGS OUT BASE

Prints the digest, that of a second build during which one node is lost, and how many machines of the cluster worked.
"""

import json
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from camelid.corpus.build import build_corpus
from camelid.corpus.engine import open_engine
from camelid.corpus.settings import CorpusSettings

_SECONDS_BEFORE_LOSS = 1.5


def name_machine(number: int) -> tuple[int, str]:
    """Which machine does a task."""
    time.sleep(0.3)
    return number, str(ray.get_runtime_context().get_node_id())


def main() -> None:
    settings, out, base = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    with open_engine("ray", 0) as engine:
        found = list(engine.run(name_machine, range(8)))
        assert [number for number, _ in found] == list(range(8))
    chosen = CorpusSettings.model_validate_json(settings.read_text())
    digests = [build_corpus(chosen, out, seed=0, base=base).digest]
    loss = threading.Timer(_SECONDS_BEFORE_LOSS, cluster.remove_node, (node,))
    loss.start()
    digests.append(build_corpus(chosen, out.with_name("with a loss"), seed=0, base=base).digest)
    loss.join()
    print(json.dumps({"digests": digests, "machines": len({machine for _, machine in found})}))  # noqa: T201
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
