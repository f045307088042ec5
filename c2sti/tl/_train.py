"""Training on the held-out sections of a series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anndata import AnnData
from torch import nn
from tqdm.auto import tqdm

from c2sti import _logging, _validators, benchmark, io
from c2sti._docs import documented
from c2sti.models._registry import available, image_encoder, resolve
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.training import TrainConfig, make_examples
from c2sti.training import train as train_on

if TYPE_CHECKING:
    from spatialdata import SpatialData


@documented
def train(
    series: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    library_key: str | None = None,
    model: str | Path | C2STi | None = "c2sti",
    config: C2STiConfig | None = None,
    how: TrainConfig | None = None,
    n_slices: int = 4,
    z: Sequence[float] | None = None,
    n_genes: int = 1000,
    folder: str | Path | None = None,
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    image_key: io.Key = None,
    coordinate_system: io.Key = None,
    histology_encoder: nn.Module | None = None,
    device: str | None = None,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> C2STi:
    """Train the network on the held-out sections of a series.

    Every run of 1 to `n_slices` interior sections is held out in turn, with and without the sections beyond its
    neighbours, and the network learns to interpolate it. The model is for other series of the same kind, or for the
    gaps of this one; do not :func:`evaluate` it on the sections that it was trained on.

    Parameters
    ----------
    series
        As `slices` of :func:`interpolate_series`, three sections or more.
    model
        What to start from: the bundled checkpoint, a folder with another, a model; None for a new network.
    config
        Settings of the network, where `model` is None.
    how
        Settings of the training; by default 200 steps at a low rate from a model, 600 for a new network.
    n_slices
        Most sections held out in a row.
    z
        z of the sections; by default ``obs["z_um"]`` or ``obs["z"]`` where all sections carry one, else even steps.
    n_genes
        Genes learnt from, as :func:`evaluate` chooses them. The model is for any genes.
    folder
        Where the state is kept while training; a stopped run continues from there.
    histology_encoder
        Describes the H&E in place of its colours, as :func:`c2sti.nn.resnet.load_resnet50` makes one; for a
        network whose `config` has as many ``image_channels``. :func:`interpolate` needs it again.
    %(shared)s

    Returns
    -------
    The trained model: give it to :func:`interpolate` as `model`, keep it by ``save(folder)``.

    Raises
    ------
    ValueError
        Fewer than three sections, or one that cannot be used.
    FloatingPointError
        The loss is not a number.
    ImportError
        accelerate is not installed: ``pip install "c2sti[train]"``.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=8, n_genes=30).series([0.0, 150.0, 300.0])
    >>> small = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=0)
    >>> how = c2sti.TrainConfig(steps=2)
    >>> model = c2sti.tl.train(series, model=None, config=small, how=how, show_progress_bar=False)
    >>> out = c2sti.tl.interpolate(series[0], series[2], model=model, show_progress_bar=False)
    """
    found = io.sources(
        series,
        what="series",
        least=3,  # one is held out between two others
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    start = None if model is None else resolve(model)
    if not isinstance(start, C2STi | None):
        raise ValueError(
            f"model = {model!r} has nothing to train; give 'c2sti', a folder written by C2STi.save, or None"
        )
    for given, name, kind in ((config, "config", C2STiConfig), (how, "how", TrainConfig)):
        _validators.a(given, name, (kind, type(None)), f"a c2sti.{kind.__name__}")
    if start is not None and config not in (None, start.config):
        raise ValueError("config is for a network that starts anew, and model has settings of its own; give model=None")
    _validators.seed(seed)
    folder = None if folder is None else _validators.folder(folder, "folder")
    device = available(device)
    settings = start.config if start is not None else (config or C2STiConfig())
    how = how or (TrainConfig(seed=seed) if start is None else TrainConfig(steps=200, learning_rate=5e-4, seed=seed))
    grids = [source.read(measured=True) for source in found]
    encoder, most = image_encoder(histology_encoder), min(_validators.whole(n_slices, "n_slices"), len(grids) - 2)
    cases = benchmark.held_out_cases(grids, most=most, z=z, n_genes=n_genes, encoder=encoder)
    with tqdm(total=len(cases), desc="looking at held-out sections", disable=not show_progress_bar) as bar:
        examples = make_examples(cases, settings, device=device, seed=seed, progress=lambda case: bar.update())
    trained = train_on(
        examples,
        config=settings,
        how=how,
        start=start,
        folder=folder,
        device=device,
        show_progress_bar=show_progress_bar,
    )
    _logging.info(f"trained on {len(examples)} held-out sections, {how.steps} steps")
    return trained
