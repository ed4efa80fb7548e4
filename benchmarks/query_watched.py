"""The query history as the benchmarks ask it: a store and what knows disguises, no gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from detectors.query_disguise import Likeness, likeness_of
from detectors.query_fingerprint import BANDS, SKETCH, Fingerprint, Fingerprinter, cells_of
from detectors.query_sequence import UNSEEN, Sight
from models.spec import Preprocessing
from service.query_disguises import Disguises
from service.query_store import LocalStore, Query, Size

FINGERPRINTER = Fingerprinter(b"the benchmark's own secret")
SIZE = Size(queries=2**20, seconds=86_400)
MODEL = "m"


class Watched:
    """The history of one process, for one model."""

    def __init__(self, spec: Preprocessing, size: Size = SIZE) -> None:
        self._spec = spec
        self._store, self._disguises = LocalStore(size), Disguises(size.seconds)

    def see(
        self,
        image: npt.NDArray[np.uint8],
        label: int,
        sender: int = 1,
        study: int = 0,
        known: bool = False,
    ) -> Sight:
        """One image that the model gave this label."""
        image = np.ascontiguousarray(image)
        cells = cells_of(image, self._spec)
        mark = FINGERPRINTER.of_cells(cells, str(hash(image.tobytes())), MODEL)
        if mark is None:
            return UNSEEN
        likeness = likeness_of(cells)
        query = Query(mark, label, sender, study, known, "incident")
        query = self._disguises.hinted(query, likeness, MODEL, 0.0)
        sight = self._store.link(query, 0.0)
        self._disguises.keep(query, likeness, MODEL, sight, 0.0)
        return sight

    def pass_by(self, others: Iterable[Query]) -> None:
        """Images of others, alike to nothing."""
        for query in others:
            sight = self._store.link(query, 0.0)
            self._disguises.keep(query, _NOTHING, MODEL, sight, 0.0)


def strangers(rng: np.random.Generator, count: int) -> Iterator[Query]:
    """Queries about other pictures: what they do to the tables is what any others do."""
    bands = rng.integers(2**32, size=(count, BANDS))
    sketches = rng.integers(256, size=(count, SKETCH), dtype=np.uint8)
    for row, sketch in zip(bands, sketches, strict=True):
        mark = Fingerprint(sketch.tobytes(), tuple(row.tolist()), 50.0, 100.0, rng.bytes(8))
        yield Query(mark, 0, 999, 0, False, "incident")


_NOTHING = Likeness(np.zeros_like(likeness_of(np.zeros((28, 28), np.float32)).whole))
