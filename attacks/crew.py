"""Who does the work: threads of this process, or the workers of a Ray cluster.

Both take units in order and give parts back in that order, with a bounded number under way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from attacks.work import Bench, Part, Unit, attack_unit

AHEAD = 2  # units waiting for each worker: none idles, and few results wait for an earlier one


class ClusterProblem(Exception):
    """A Ray cluster that cannot be used. The message says what to do."""


Keep = Callable[[int, Part], None]
"""Told a unit's place among those given and its part, as soon as that is there: parts that wait for
an earlier one are not lost when the run is stopped. May be called by several threads."""


class Crew(Protocol):
    """Attacks units."""

    def work(self, bench: Bench, units: Iterable[Unit], keep: Keep) -> Iterator[Part]:
        """One part a unit, in order. Raises what ``attack_unit`` raises."""
        ...


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads of this process, each on one core; one alone where a GPU does the work.

    A unit on one core costs less than on two (nothing waits for anything), and its sums do not
    depend on the number of cores.
    """

    workers: int | None = None
    """None: as many as there are cores."""

    def work(self, bench: Bench, units: Iterable[Unit], keep: Keep) -> Iterator[Part]:
        workers = self.workers or (os.cpu_count() or 1)
        if bench.device != "cpu":
            workers = 1
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

        def attack(place: int, unit: Unit) -> Part:
            part = attack_unit(bench, unit)
            keep(place, part)
            return part

        try:
            yield from _in_order(
                lambda place, unit: pool.submit(attack, place, unit), units, workers
            )
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def _in_order(
    submit: Callable[[int, Unit], Future[Part]], units: Iterable[Unit], workers: int
) -> Iterator[Part]:
    waiting: deque[Future[Part]] = deque()
    for place, unit in enumerate(units):
        waiting.append(submit(place, unit))
        if len(waiting) > AHEAD * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Actors on a Ray cluster, one a core, or one a GPU where the bench is on CUDA.

    An actor that dies is started again and its unit with it.
    """

    address: str
    """``auto`` for the cluster of this machine or ``$RAY_ADDRESS``, ``ray://host:10001`` for
    another one, ``local`` to start one here for the time of the run."""
    workers: int | None = None
    """None: as many as the cluster has cores (or GPUs)."""

    def work(self, bench: Bench, units: Iterable[Unit], keep: Keep) -> Iterator[Part]:
        try:
            import ray
            from ray.util.actor_pool import ActorPool
        except ImportError:
            raise ClusterProblem("scale-out needs Ray: pip install 'lazaret[ray]'") from None
        local = self.address == "local"
        try:
            ray.init(
                address="local" if local else self.address,
                num_cpus=self.workers if local else None,
                include_dashboard=False if local else None,
                log_to_driver=False,
                ignore_reinit_error=True,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterProblem(
                f"no Ray cluster answers at {self.address!r} ({str(error).splitlines()[0]}); start "
                "one with `ray start --head`, or write --ray local"
            ) from None
        try:
            kind = "CPU" if bench.device == "cpu" else "GPU"
            workers = self.workers or max(1, int(ray.cluster_resources().get(kind, 1)))  # type: ignore[no-untyped-call]  # untyped in Ray
            actor = ray.remote(
                num_cpus=1,
                num_gpus=0 if bench.device == "cpu" else 1,
                max_restarts=-1,
                max_task_retries=3,
            )(_Worker)
            shared = ray.put(bench)
            pool = ActorPool([actor.remote(shared) for _ in range(workers)])
            for place, part in enumerate(_from_pool(pool, units, workers)):
                keep(place, part)
                yield part
        finally:
            if local:
                ray.shutdown()


def _from_pool(pool: Any, units: Iterable[Unit], workers: int) -> Iterator[Part]:
    under_way = 0
    for unit in units:
        pool.submit(lambda actor, unit: actor.attack.remote(unit), unit)
        under_way += 1
        if under_way > AHEAD * workers:
            yield Part.from_bytes(pool.get_next())
            under_way -= 1
    while pool.has_next():
        yield Part.from_bytes(pool.get_next())


class _Worker:
    def __init__(self, bench: Bench) -> None:
        torch.set_num_threads(1)
        self._bench = bench

    def attack(self, unit: Unit) -> bytes:
        return attack_unit(self._bench, unit).to_bytes()
