from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from c2sti.datasets._anatomy import DOMAINS, LOOKS, PROGRAMMES, fat_cells
from c2sti.datasets._simulated import HOUSEKEEPING, Phantom, phantom

PITCH = 100.0
MISPLACED: dict[str, Any] = {"angle": 25.0, "shift": (60.0, -40.0), "flip": True}


@pytest.fixture(scope="module")
def tissue() -> Phantom:
    return phantom(seed=1, n_genes=60, size=12)


@pytest.fixture(scope="module")
def section(tissue: Phantom) -> AnnData:
    return tissue.section(150.0, truth=True)


def in_tissue(tissue: Phantom, z: float, n: int = 400) -> np.ndarray:
    xy = np.random.default_rng(0).uniform(0, tissue.side, (6 * n, 2))
    return xy[tissue.inside(xy, z)][:n]


def depth(adata: AnnData) -> float:
    """Median counts per row."""
    return float(np.median(adata.X.toarray().sum(1)))


def neighbours(adata: AnnData) -> np.ndarray:
    """Distances (n, 7) to the seven nearest spots."""
    xy = adata.obsm["spatial"]
    return np.asarray(cKDTree(xy).query(xy, k=8)[0])[:, 1:]


def hires(adata: AnnData) -> np.ndarray:
    (library,) = adata.uns["spatial"].values()
    return library["images"]["hires"]


def darkness(adata: AnnData, xy: np.ndarray, *, channel: int, sigma: float = 6.0) -> np.ndarray:
    """Blurred optical density at points in µm on the slide."""
    density = gaussian_filter(-np.log(np.maximum(hires(adata)[..., channel], 1) / 245.0), sigma)
    column, row = np.floor(xy / adata.uns["section"]["um_per_px"]).astype(int).T
    return density[row, column]


# ------------------------------------------------------------ what a section is


def test_section_follows_the_conventions(tissue: Phantom, section: AnnData) -> None:
    n = section.n_obs
    assert 70 < n < 130
    assert section.shape == (n, 60)
    assert isinstance(section.X, csr_matrix)
    assert section.X.dtype == np.float32
    assert section.X.data.min() >= 1
    assert np.array_equal(section.X.data, np.rint(section.X.data))
    assert list(section.var_names) == tissue.gene_names
    assert tuple(section.obs["domain"].cat.categories) == DOMAINS
    assert (section.obs["z_um"] == 150.0).all()
    assert section.obsm["spatial"].shape == (n, 2)
    assert tissue.inside(section.obsm["spatial"], 150.0).all()
    assert hires(section).dtype == np.uint8
    assert hires(section).ndim == 3
    assert np.array_equal(section.uns["section"]["placement"], np.eye(3))


def test_names_are_unique_in_a_series(tissue: Phantom) -> None:
    series = tissue.series([0.0, 12.5, 100.0], image=False)
    names = [name for adata in series for name in adata.obs_names]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore")  # zarr and anndata announce changes of their formats
def test_section_survives_writing(section: AnnData, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"section.{suffix}"
    getattr(section, f"write_{suffix}")(path)
    back = getattr(anndata, f"read_{suffix}")(path)
    assert (back.X != section.X).nnz == 0
    assert np.array_equal(hires(back), hires(section))
    assert np.array_equal(back.uns["section"]["placement"], section.uns["section"]["placement"])
    assert list(back.obs["domain"]) == list(section.obs["domain"])
    assert np.array_equal(back.layers["truth"], section.layers["truth"])


@pytest.mark.parametrize(("layout", "n_near"), [("square", 4), ("hex", 6)])
def test_arrays_have_their_geometry(tissue: Phantom, layout: str, n_near: int) -> None:
    distance = neighbours(tissue.section(0.0, layout=layout, image=False))
    assert distance.min() == pytest.approx(PITCH)
    near = (distance < 1.01 * PITCH).sum(1)
    assert near.max() == n_near
    assert np.median(near) == n_near


def test_cells_are_dense_shallow_and_shown_by_the_image(tissue: Phantom) -> None:
    spots, cells = tissue.section(0.0), tissue.section(0.0, layout="cells")
    assert cells.n_obs > 5 * spots.n_obs
    assert depth(cells) < depth(spots) / 3
    assert np.array_equal(hires(cells), hires(spots))
    xy = cells.obsm["spatial"]
    here = darkness(cells, xy, channel=0, sigma=0.5)
    beside = darkness(cells, np.clip(xy + [12.0, 12.0], 0, tissue.side - 1), channel=0, sigma=0.5)
    assert here.mean() > 1.5 * beside.mean()


def test_library_size_is_the_median(tissue: Phantom) -> None:
    assert depth(tissue.section(0.0, image=False, library_size=800.0)) == pytest.approx(800, rel=0.08)


def test_parameters_set_the_size(tissue: Phantom) -> None:
    assert phantom(size=20).section(0.0, image=False).n_obs > 2 * tissue.section(0.0, image=False).n_obs
    assert neighbours(phantom(pitch=50.0, size=12).section(0.0, image=False)).min() == pytest.approx(50)
    assert hires(tissue.section(0.0, um_per_px=20.0)).shape == (84, 84, 3)
    assert max(hires(phantom(size=40, n_genes=2).section(0.0)).shape) <= 512


# --------------------------------------------------------------------- noise


def test_same_seed_same_bytes(section: AnnData) -> None:
    again = phantom(seed=1, n_genes=60, size=12).section(150.0)
    assert (again.X != section.X).nnz == 0
    assert np.array_equal(hires(again), hires(section))
    other = phantom(seed=2, n_genes=60, size=12).section(150.0)
    assert not np.array_equal(hires(other), hires(section))


def test_counts_do_not_depend_on_what_else_is_asked_for(tissue: Phantom, section: AnnData) -> None:
    assert (tissue.section(150.0, image=False).X != section.X).nnz == 0
    assert "spatial" not in tissue.section(150.0, image=False).uns
    assert "truth" not in tissue.section(150.0, image=False).layers


def test_sections_and_seeds_differ_in_noise() -> None:
    still = phantom(n_genes=30, size=8, motion=0, change=0)
    first, deeper, again = still.section(0.0), still.section(100.0), still.section(0.0, seed=5)
    assert np.array_equal(first.obsm["spatial"], deeper.obsm["spatial"])
    for other in (deeper, again):
        assert (first.X != other.X).nnz > 0.3 * first.X.nnz
        assert not np.array_equal(hires(first), hires(other))


@pytest.mark.parametrize("overdispersion", [0.0, 0.2])
def test_counts_scatter_about_the_truth(overdispersion: float) -> None:
    adata = phantom(n_genes=200, size=16, overdispersion=overdispersion).section(0.0, image=False, truth=True)
    fractions = np.expm1(adata.layers["truth"].astype(float)) / 1e4
    assert fractions.sum(1) == pytest.approx(1, rel=1e-4)
    counts = adata.X.toarray()
    mean = fractions * counts.sum(1, keepdims=True)
    some = (fractions < 0.02) & (mean > 0.5)  # a gene that fills the library scatters less, given the library's size
    variance = (mean + overdispersion * mean**2)[some]
    assert ((counts - mean)[some] ** 2).sum() / variance.sum() == pytest.approx(1, abs=0.1)
    assert (counts.sum(0) / mean.sum(0))[mean.sum(0) > 100] == pytest.approx(1, abs=0.35)
    assert (counts - mean)[some].mean() / mean[some].mean() == pytest.approx(0, abs=0.03)


# --------------------------------------------------------------------- truth


def test_displacement_is_nothing_at_the_same_depth(tissue: Phantom) -> None:
    xy = in_tissue(tissue, 200.0)
    assert np.abs(tissue.displacement(xy, 200.0, 200.0)).max() < 1e-8


def test_displacement_is_inverted_and_composed(tissue: Phantom) -> None:
    xy = in_tissue(tissue, 100.0)
    there = xy + tissue.displacement(xy, 100.0, 400.0)
    assert there + tissue.displacement(there, 400.0, 100.0) == pytest.approx(xy, abs=1e-8)
    half = xy + tissue.displacement(xy, 100.0, 250.0)
    assert half + tissue.displacement(half, 250.0, 400.0) == pytest.approx(there, abs=1e-8)


def test_displacement_never_folds_and_keeps_areas(tissue: Phantom) -> None:
    xy, h = in_tissue(tissue, 0.0), 1e-2
    gradient = [
        (tissue.displacement(xy + step, 0.0, 900.0) - tissue.displacement(xy - step, 0.0, 900.0)) / (2 * h)
        for step in (np.array([h, 0]), np.array([0, h]))
    ]
    jacobian = np.linalg.det(np.stack(gradient, axis=-1) + np.eye(2))
    assert jacobian == pytest.approx(1, abs=1e-5)


def test_motion_is_the_speed_asked_for() -> None:
    speeds = []
    for seed in range(8):
        tissue = phantom(seed, n_genes=2, motion=0.5)
        move = tissue.displacement(in_tissue(tissue, 0.0), 0.0, 20.0)
        speeds.append((move**2).sum(1).mean() / 20.0**2)
    assert np.sqrt(np.mean(speeds)) == pytest.approx(0.5, rel=0.25)


def test_without_change_sections_are_images_of_one_another() -> None:
    tissue = phantom(n_genes=20, size=12, change=0)
    xy = in_tissue(tissue, 0.0)
    there = xy + tissue.displacement(xy, 0.0, 300.0)
    assert np.linalg.norm(there - xy, axis=1).max() > PITCH / 2
    assert tissue.expression(there, 300.0) == pytest.approx(tissue.expression(xy, 0.0), abs=1e-5)
    assert (tissue.domain(there, 300.0) == tissue.domain(xy, 0.0)).all()
    assert tissue.inside(there, 300.0).all()


def test_with_change_the_material_differs(tissue: Phantom) -> None:
    xy = in_tissue(tissue, 0.0)
    there = xy + tissue.displacement(xy, 0.0, 600.0)
    change = np.abs(tissue.expression(there, 600.0) - tissue.expression(xy, 0.0))
    assert change.max() > 1
    assert (tissue.domain(there, 600.0) == tissue.domain(xy, 0.0)).mean() > 0.7


def test_tumour_divides_and_its_core_fades() -> None:
    tissue = phantom(n_genes=2, size=20, motion=0)
    shallow, deep = (tissue._anatomy.parted(tissue._age(z)) for z in (0.0, 800.0))
    gaps = [np.linalg.norm(lobes[0, :2] - lobes[1, :2]) - lobes[:, 2].sum() for lobes in (shallow, deep)]
    assert gaps[0] < -0.1
    assert gaps[1] > 0
    xy = np.random.default_rng(0).uniform(0, tissue.side, (3000, 2))
    hypoxia = [
        tissue._anatomy.activity(tissue._pattern(xy, z), tissue._age(z))[:, PROGRAMMES.index("hypoxia")].mean()
        for z in (0.0, 1400.0)
    ]
    assert hypoxia[1] < 0.1 * hypoxia[0]


def test_all_domains_are_there() -> None:
    assert tuple(LOOKS) == DOMAINS
    for seed in range(4):
        share = phantom(seed, n_genes=2).section(0.0, image=False).obs["domain"].value_counts(normalize=True)
        assert share.min() > 0
        assert share.max() < 0.6


def test_coexpression_has_the_blocks_of_the_programmes(tissue: Phantom) -> None:
    correlation, loadings = tissue.coexpression(), tissue.programmes
    assert correlation.shape == (60, 60)
    assert correlation == pytest.approx(correlation.T)
    assert np.diag(correlation) == pytest.approx(1)
    assert list(loadings.columns) == list(PROGRAMMES)
    assert (loadings.to_numpy() != 0).sum(1).max() <= 2
    main = tissue.section(0.0, image=False).var["programme"].to_numpy()
    marks = main != HOUSEKEEPING
    assert np.array_equal(marks, loadings.to_numpy().any(1))
    assert 0.05 < (~marks).mean() < 0.4
    same = (main[:, None] == main) & ~np.eye(60, dtype=bool) & marks[:, None]
    other = (main[:, None] != main) & marks[:, None] & marks
    assert correlation[same].mean() > 0.6
    assert correlation[other].mean() < 0.2


# --------------------------------------------------------------------- image


def test_image_covers_the_tissue_and_leaves_glass(tissue: Phantom, section: AnnData) -> None:
    image, um_per_px = hires(section), section.uns["section"]["um_per_px"]
    (library,) = section.uns["spatial"].values()
    assert library["scalefactors"]["tissue_hires_scalef"] == pytest.approx(1 / um_per_px)
    rows, columns = np.indices(image.shape[:2])
    inside = tissue.inside((np.column_stack([columns.ravel(), rows.ravel()]) + 0.5) * um_per_px, 150.0)
    inside = inside.reshape(image.shape[:2])
    green = image[..., 1].astype(float)
    assert green[~inside].mean() > 235
    assert green[inside].mean() < 200
    assert not np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).any()


def test_nuclei_are_dense_where_cells_are() -> None:
    tissue = phantom(seed=1, n_genes=2, size=16)
    adata = tissue.section(0.0)
    xy = in_tissue(tissue, 0.0, n=3000)
    blue, domain = darkness(adata, xy, channel=0, sigma=3.0), np.asarray(tissue.domain(xy, 0.0))
    mean = {name: blue[domain == name].mean() for name in DOMAINS}
    for dense in ("lymphoid", "tumour", "epithelium"):
        assert mean[dense] > 1.5 * mean["stroma"]
    assert mean["adipose"] < mean["stroma"]


def test_misplacement_maps_back_exactly(tissue: Phantom) -> None:
    adata = tissue.section(150.0, image=False, truth=True, **MISPLACED)
    matrix = adata.uns["section"]["placement"]
    assert np.linalg.det(matrix) == pytest.approx(-1)
    slide = np.column_stack([adata.obsm["spatial"], np.ones(adata.n_obs)])
    xy = (slide @ np.linalg.inv(matrix).T)[:, :2]
    assert tissue.inside(xy, 150.0).all()
    assert adata.layers["truth"] == pytest.approx(tissue.expression(xy, 150.0), abs=1e-5)
    assert list(adata.obs["domain"]) == list(tissue.domain(xy, 150.0))


def test_misplaced_cells_are_the_same_cells(tissue: Phantom) -> None:
    upright = tissue.section(150.0, layout="cells", image=False)
    askew = tissue.section(150.0, layout="cells", image=False, **MISPLACED)
    matrix = askew.uns["section"]["placement"]
    moved = upright.obsm["spatial"] @ matrix[:2, :2].T + matrix[:2, 2]
    assert askew.obsm["spatial"] == pytest.approx(moved)
    assert (askew.X != upright.X).nnz == 0


def test_image_follows_the_misplacement(tissue: Phantom, section: AnnData) -> None:
    askew = tissue.section(150.0, **MISPLACED)
    matrix = askew.uns["section"]["placement"]
    xy = in_tissue(tissue, 150.0)
    moved = xy @ matrix[:2, :2].T + matrix[:2, 2]
    here = darkness(section, xy, channel=1)
    assert np.corrcoef(here, darkness(askew, moved, channel=1))[0, 1] > 0.95
    assert np.corrcoef(here, darkness(askew, xy, channel=1))[0, 1] < 0.7


# -------------------------------------------------------------------- errors


def test_errors_say_what_to_do(tissue: Phantom) -> None:
    with pytest.raises(ValueError, match="no layout 'visium'; choose one of square, hex, cells"):
        tissue.section(0.0, layout="visium")
    with pytest.raises(ValueError, match="library_size = 0 must be positive"):
        tissue.section(0.0, library_size=0)
    with pytest.raises(ValueError, match="um_per_px = -1 must be more than 0"):
        tissue.section(0.0, um_per_px=-1)
    with pytest.raises(ValueError, match="No tissue lies on the slide"):
        tissue.section(0.0, shift=(1e5, 0.0))
    with pytest.raises(ValueError, match="n_genes = 1 must be a whole number of at least 2"):
        phantom(n_genes=1)
    with pytest.raises(ValueError, match="pitch = 0 must be positive"):
        phantom(pitch=0)


def test_tissue_without_fat_has_no_fat_cells() -> None:
    assert fat_cells(np.zeros((0, 2)), diameter=1.0, rng=np.random.default_rng(0)).shape == (0,)
