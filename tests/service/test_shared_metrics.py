"""The page of several workers says what prometheus_client's own collector would say."""

import subprocess
import sys
from pathlib import Path

COUNT = """
import os, sys
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from service.metrics import Metrics, catalogue as c, labels as by
from service.metrics.shared import forget_present_values, keep_values_as

def one(place):
    keep_values_as(place)
    metrics = Metrics()
    metrics.allow(by.MODEL, ["tiny"])
    for i in range(place):
        metrics.count(c.REQUESTS, "diagnose", "answered")
        metrics.observe(c.REQUEST_SECONDS, 0.2 * place, "tiny", "diagnose", trace_id=32 * "a")
    metrics.set(c.QUEUE_IMAGES, place, "tiny")
    metrics.set(c.READY, place > 1, "tiny")
    metrics.set(c.SPOOL_OLDEST, place)
    return metrics

def values(registry):
    return {
        (s.name, tuple(sorted(s.labels.items()))): round(s.value, 9)
        for family in registry.collect() for s in family.samples
    }

for place in (1, 2, 3):
    metrics = one(place)
theirs = CollectorRegistry()
MultiProcessCollector(theirs)
ours = values(metrics.readable())
assert ours == values(theirs)
assert ours["lazaret_queue_images", (("model", "tiny"),)] == 6
assert ours["lazaret_ready", (("model", "tiny"),)] == 0
assert ours["lazaret_spool_oldest_seconds", ()] == 3
answered = "lazaret_requests_total", (("interface", "diagnose"), ("outcome", "answered"))
assert ours[answered] == 6
forget_present_values(3)
metrics = one(3)  # a worker in the dead one's place
again = values(metrics.readable())
assert again[answered] == 9
assert again["lazaret_queue_images", (("model", "tiny"),)] == 6
(family,) = [f for f in metrics.readable().collect() if f.name == "lazaret_request_seconds"]
assert sum(s.exemplar is not None for s in family.samples) == 1
print(len(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])))
"""


def test_it_equals_the_librarys_and_a_place_is_taken_over(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True,
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(list(tmp_path.iterdir())) <= 3 * 5
