"""Scores of held-out sections, one small file for each method, network and case: what is there is not computed again.

A *case* is a run of held-out sections between two others. Files are written aside and moved into place, so a run that
was killed has lost the one it was at, and nothing is ever half-written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from c2sti import io, metrics
from c2sti._atomic import put
from c2sti._types import FloatArray, Interpolator, Lattice, SlicePair
from c2sti.benchmark._leave_out import Target, Window, depths, pair_of, scores_of, target_of, windows
from c2sti.benchmark._networks import Method, Network, load
from c2sti.benchmark._series import Series, Source
from c2sti.models import _checkpoint
from c2sti.models.gp import Descriptions
from c2sti.nn.c2sti import C2STiConfig

# Of PSNR and SSIM: log1p of the 1e4 to which the counts of a spot are scaled, the most that a value can be. One number
# for all genes, sections and methods.
DATA_RANGE = float(np.log1p(io.TARGET_SUM))
WINDOW = 7  # bins a side of the windows of SSIM
SEED = 0  # of what is random in an answer; the seeds of a table are those of the training


@dataclass(frozen=True)
class Job:
    """One method, by one network where it is trained, on one case.

    Parameters
    ----------
    method
        To be scored.
    network
        Trained for it; None where nothing is trained.
    series, n_slices, case
        Which sections are held out; `case` is the names of the two around them.
    place
        Index of the first of the two.
    file
        Where the scores are kept.
    """

    method: Method
    network: Network | None
    series: Series
    n_slices: int
    case: str
    place: int
    file: Path

    @property
    def weights(self) -> str:
        """Hash of the weights, from the settings of the checkpoint; empty where there are none."""
        if self.network is None:
            return ""
        return json.loads((self.network.folder / _checkpoint.SETTINGS).read_text())["weights"]

    def kept(self) -> list[dict[str, Any]] | None:
        """Scores that were kept, one row a held-out section; None where there are none, or of other weights."""
        if not self.file.is_file():
            return None
        found = json.loads(self.file.read_text())
        return found["rows"] if found["weights"] == self.weights else None

    def keep(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the scores, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write(self.file, json.dumps({"weights": self.weights, "rows": list(rows)}, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    put(path, text.encode())


def jobs(
    source: Source,
    methods: Sequence[Method],
    networks: Sequence[Network],
    n_slices: Sequence[int],
    folder: Path,
    *,
    context: bool,
) -> list[Job]:
    """Everything to be scored, case by case. A section is never scored by a network that has seen its patient."""
    found = []
    for series in source.series:
        names = [Path(file).name for file in series.files]
        for s in n_slices:
            for a in range(len(names) - s - 1):  # none where the series is too short to hide as many
                case = f"{names[a]}..{names[a + s + 1]}"
                for method in methods:
                    for network in _fitting(method, networks, series):
                        seen = "context" if context else "pair"
                        place = [] if network is None else [network.fold, str(network.seed)]
                        file = folder.joinpath(seen, method.name, *place, f"{case}.json")
                        found.append(Job(method, network, series, s, case, a, file))
    return found


def _fitting(method: Method, networks: Sequence[Network], series: Series) -> Iterator[Network | None]:
    if not method.trained:
        yield None
        return
    for network in networks:
        if network.method is method and series.patient in ("", network.fold):
            yield network


def score(
    todo: Sequence[Job],
    source: Source,
    *,
    config: C2STiConfig,
    n_genes: int,
    context: bool,
    device: str,
    progress: Callable[[Job], object] = lambda job: None,
) -> None:
    """Compute the scores of jobs and keep them; jobs of one case that follow each other share its pair."""
    last: tuple[Series, int, int] | None = None
    models: dict[str, Interpolator] = {}
    for job in todo:
        if last != (job.series, job.n_slices, job.place):
            last = (job.series, job.n_slices, job.place)
            slices = source.read(job.series)
            window = list(windows(depths(slices, None), job.n_slices))[job.place]
            pair, targets = _case(slices, window, n_genes, context)
            known = Descriptions(pair, device=device, seed=SEED)
        name = job.method.name if job.network is None else str(job.network)
        if name not in models:
            models[name] = _model(job, config)
        rows = []
        for i, position, target in zip(window.hidden, window.positions, targets, strict=True):
            row = {"section": Path(job.series.files[i]).name, "position": position}
            rows.append(row | _scored(models[name], known, target, position))
        job.keep(rows)
        progress(job)


def _case(
    slices: Sequence[io.SliceGrid], window: Window, n_genes: int, context: bool
) -> tuple[SlicePair, list[Target]]:
    around = {q: slices[i] for q, i in window.beyond.items()} if context else {}
    pair, genes = pair_of(slices[window.a], slices[window.b], around, io.shared_genes(slices), n_genes)
    return pair, [target_of(slices[i], pair, genes) for i in window.hidden]


def _model(job: Job, config: C2STiConfig) -> Interpolator:
    return job.method.make(config) if job.method.make is not None else load(job.network)  # type: ignore[arg-type]


def _scored(method: Interpolator, known: Descriptions, target: Target, position: float) -> dict[str, float | int]:
    bound = known.bound(method)
    start = time.process_time()  # of the processor: other programs do not count
    answer = bound(known.pair, target.xy, [position], device=known.device, seed=SEED, progress=lambda share: None)
    predicted = answer.slices[0].expression()
    seconds = time.process_time() - start + known.seconds(method)
    scores = scores_of(predicted, target)
    return scores | {
        "psnr": metrics.psnr(predicted, target.expression, data_range=DATA_RANGE),
        "ssim": _ssim(predicted, target, known.pair.lattice),
        "seconds": seconds,
    }


def _ssim(predicted: FloatArray, target: Target, lattice: Lattice) -> float:
    """SSIM of the gene maps, mean over genes and over the bins that hold a spot.

    A bin shows the spot nearest to its centre, on both sides: neither the gaps between irregular spots nor the empty
    slide around the tissue become structure that every method gets right. NaN on fewer than 7 bins a side.
    """
    if min(lattice.shape) < WINDOW:
        return float("nan")
    nearest = KDTree(target.xy).query(lattice.centres)[1]
    maps = [np.asarray(x)[nearest].T.reshape(-1, *lattice.shape) for x in (predicted, target.expression)]
    index = lattice.bins(target.xy)
    mask = np.zeros(lattice.shape, dtype=bool)
    mask.flat[index[index >= 0]] = True
    return metrics.ssim(maps[0], maps[1], data_range=DATA_RANGE, mask=mask)


def collect(done: Sequence[Job]) -> pd.DataFrame:
    """All scores as one table: a row for each method, network and held-out section."""
    rows = []
    for job in done:
        network = job.network
        head = {
            "series": job.series.group,
            "block": job.series.name,
            "n_slices": job.n_slices,
            "case": job.case,
            "method": job.method.name,
            "fold": "" if network is None else network.fold,
            "seed": 0 if network is None else network.seed,
        }
        rows += [head | row for row in job.kept() or []]
    return pd.DataFrame(rows)
