"""Folders as the instruments leave them, read by spatialdata-io, through the whole of the library.

The tissue is the same everywhere: counts of each gene follow a place, and so does the H&E, so that what comes out can
be compared with where it lies.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import squidpy as sq
import tifffile
import zarr
from matplotlib import pyplot as plt
from PIL import Image
from spatialdata import SpatialData

import c2sti
from c2sti import io
from c2sti._types import Lattice
from c2sti.io import histology_on
from tests.io.test_spatialdata import colours

readers = pytest.importorskip("spatialdata_io", reason="spatialdata-io is not installed: pip install 'c2sti[io]'")

N_GENES = 24
GENES = [f"GENE{i}" for i in range(N_GENES)]
WIDTH, HEIGHT = 420, 360  # pixels of the full image


def counts(xy: np.ndarray, seed: int) -> sp.csc_array:
    """(N, n) features by barcodes, as 10x stores them; half of the genes rise along x, half along y."""
    rng = np.random.default_rng(seed)
    rate = np.where(np.arange(N_GENES)[:, None] % 2, 0.2 + xy[:, 0] / 40, 0.2 + xy[:, 1] / 40)
    return sp.csc_array(rng.poisson(rate).astype(np.int32))


def write_matrix(path: Path, xy: np.ndarray, barcodes: list[str], seed: int) -> None:
    """The HDF5 matrix of cellranger and its kin."""
    matrix = counts(xy, seed)
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array([b"library"])
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = np.array(matrix.shape, dtype=np.int32)
        group["barcodes"] = np.array(barcodes, dtype="S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:05}" for i in range(N_GENES)], dtype="S")
        features["name"] = np.array(GENES, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * N_GENES, dtype="S")
        features["genome"] = np.array(["made"] * N_GENES, dtype="S")


def picture(scale: float) -> np.ndarray:
    """(h, w, 3) uint8 H&E at `scale` pixels a full pixel."""
    row, column = np.indices((int(HEIGHT * scale), int(WIDTH * scale))) + 0.5
    return np.moveaxis((255 * np.clip(colours(column / scale, row / scale), 0, 1)).round().astype(np.uint8), 0, -1)


def write_pictures(
    folder: Path, *, names: tuple[str, ...] = ("hires", "lowres"), alpha: bool = False, **other: float
) -> None:
    """Images and scale factors; with `alpha` black and transparent along the upper border."""
    folder.mkdir(parents=True)
    for name in names:
        pixels = picture({"hires": 0.5, "lowres": 0.125}[name])
        if alpha:
            pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
            pixels[: len(pixels) // 8] = 0
        Image.fromarray(pixels).save(folder / f"tissue_{name}_image.png")
    factors = {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.125, "fiducial_diameter_fullres": 30.0}
    (folder / "scalefactors_json.json").write_text(json.dumps(factors | other))


def visium(path: Path, seed: int, *, outside: int = 0, full: bool = False, **pictures: Any) -> SpatialData:
    """Hexagonal spots, of which the last are `outside` of the tissue, images, coordinate systems of the data set."""
    row, column = np.indices((16, 32)).reshape(2, -1)
    kept = (row + column) % 2 == 0  # every second column of the array holds a spot
    row, column = row[kept], column[kept]
    xy = np.column_stack([30 + 11.0 * column, 30 + 11.0 * np.sqrt(3) * row])
    barcodes = [f"{i:016}-1".replace("0", "A") for i in range(len(xy))]
    write_pictures(path / "spatial", spot_diameter_fullres=12.0, **pictures)
    write_matrix(path / "filtered_feature_bc_matrix.h5", xy, barcodes, seed)
    positions = pd.DataFrame(
        {
            "barcode": barcodes,
            "in_tissue": (np.arange(len(xy)) < len(xy) - outside).astype(int),
            "array_row": row,
            "array_col": column,
            "pxl_row_in_fullres": xy[:, 1],
            "pxl_col_in_fullres": xy[:, 0],
        }
    )
    positions.to_csv(path / "spatial" / "tissue_positions.csv", index=False)
    if full:
        tifffile.imwrite(path / "full.tif", picture(1.0), photometric="rgb")
    return readers.visium(path, dataset_id=f"section_{seed}", fullres_image_file="full.tif" if full else None)


def visium_hd(path: Path, seed: int, *, outside: int = 0, **pictures: Any) -> SpatialData:
    """Square bins of 16 µm, four pixels a µm, turned by two degrees as slides are, and a full picture."""
    row, column = np.indices((20, 24)).reshape(2, -1)
    turn = np.deg2rad(2)
    side = 14.0
    grid_xy = np.column_stack([column, row]) * side
    xy = grid_xy @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + [50.0, 30.0]
    folder = path / "binned_outputs" / "square_016um"
    barcodes = [f"s_016um_{r:05}_{c:05}-1" for r, c in zip(row, column, strict=True)]
    pixel = 16 / side
    write_pictures(
        folder / "spatial",
        spot_diameter_fullres=side,
        bin_size_um=16.0,
        microns_per_pixel=pixel,
        regist_target_img_scalef=0.5,
        **pictures,
    )
    write_matrix(folder / "filtered_feature_bc_matrix.h5", xy, barcodes, seed)
    positions = pd.DataFrame(
        {
            "barcode": barcodes,
            "in_tissue": (np.arange(len(xy)) < len(xy) - outside).astype(int),
            "array_row": row,
            "array_col": column,
            "pxl_row_in_fullres": xy[:, 1],
            "pxl_col_in_fullres": xy[:, 0],
        }
    )
    positions.to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
    with h5py.File(path / f"section_{seed}_feature_slice.h5", "w") as file:
        layout = {"file_format": "1.0", "transform": np.eye(3).ravel().tolist()}
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": json.dumps(layout)})
    (path / "microscope_image").mkdir()
    tifffile.imwrite(path / "microscope_image" / "tissue.tif", picture(1.0), photometric="rgb")
    return readers.visium_hd(path, load_segmentations_only=False)


def xenium(path: Path, seed: int) -> SpatialData:
    """Cells as a label image and polygons in µm, fluorescence, and an H&E placed by an alignment file."""
    pixel_size = 0.5
    rng = np.random.default_rng(100 + seed)
    masks = np.zeros((HEIGHT, WIDTH), dtype=np.uint32)
    placed = []
    for x, y in rng.integers(4, [WIDTH - 4, HEIGHT - 4], (1300, 2)):
        if not masks[y - 1 : y + 2, x - 1 : x + 2].any():  # cells keep clear of each other, and of any lattice
            placed.append((x, y))
            masks[y - 1 : y + 2, x - 1 : x + 2] = len(placed)
    centres = np.array(placed)
    prefix = np.arange(len(centres), dtype=np.uint32) + 17
    ids = [c2sti_id(p) for p in prefix]
    path.mkdir()
    (path / "experiment.xenium").write_text(
        json.dumps({"analysis_sw_version": "xenium-3.0.0.15", "pixel_size": pixel_size, "run_name": f"run {seed}"})
    )
    with zarr.storage.ZipStore(path / "cells.zarr.zip", mode="w") as store:
        root = zarr.open_group(store, mode="w", zarr_format=2)
        root["cell_id"] = np.column_stack([prefix, np.ones_like(prefix)])
        summary = np.zeros((len(centres), 2))
        root["cell_summary"] = summary
        root["cell_summary"].attrs["column_names"] = ["z_level", "nucleus_count"]
        for index in (0, 1):
            root[f"masks/{index}"] = masks
            root[f"polygon_sets/{index}/cell_index"] = np.arange(len(centres), dtype=np.uint32)
    middle = (centres + 0.5) * pixel_size
    pd.DataFrame(
        {"cell_id": ids, "x_centroid": middle[:, 0], "y_centroid": middle[:, 1], "cell_area": 2.25, "nucleus_area": 1.0}
    ).to_parquet(path / "cells.parquet", index=False)
    ring = np.array([[-1, -1], [2, -1], [2, 2], [-1, 2], [-1, -1]])
    vertices = ((centres[:, None] + ring) * pixel_size).reshape(-1, 2)
    labels = np.repeat(np.arange(len(centres)) + 1, 5)
    boundaries = pd.DataFrame(
        {"cell_id": np.repeat(ids, 5), "vertex_x": vertices[:, 0], "vertex_y": vertices[:, 1], "label_id": labels}
    )
    for name in ("cell_boundaries", "nucleus_boundaries"):
        boundaries.to_parquet(path / f"{name}.parquet", index=False)
    write_matrix(path / "cell_feature_matrix.h5", centres + 0.5, ids, seed)
    (path / "morphology_focus").mkdir()
    stained = rng.integers(0, 4000, (HEIGHT, WIDTH)).astype(np.uint16)
    tifffile.imwrite(path / "morphology_focus" / "morphology_focus_0000.ome.tif", stained)
    # The microscope saw it turned by a quarter, at twice the resolution; the alignment brings it back.
    turned = np.rot90(picture(2.0))
    tifffile.imwrite(path / f"run_{seed}_he_image.ome.tif", np.ascontiguousarray(turned[None]), photometric="rgb")
    back = pd.DataFrame([[0, -0.5, WIDTH], [0.5, 0, 0], [0, 0, 1]])
    back.to_csv(path / f"run_{seed}_he_imagealignment.csv", header=False, index=False)
    return readers.xenium(path, transcripts=False)


def c2sti_id(prefix: int) -> str:
    """Name of a cell as Xenium forms it: the digits of a number to base 16 as letters."""
    return "".join("abcdefghijklmnop"[(int(prefix) >> shift) & 15] for shift in range(28, -1, -4)) + "-1"


LAYOUTS: dict[str, tuple[Callable[[Path, int], SpatialData], str]] = {
    "visium": (visium, "hex"),
    "visium_hd": (visium_hd, "square"),
    "xenium": (xenium, "cells"),
}


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[SpatialData]]:
    folder = tmp_path_factory.mktemp("instruments")
    return {
        name: [read_quietly(make, folder / f"{name}_{i}", i) for i in (0, 1)] for name, (make, _) in LAYOUTS.items()
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_section_is_read_with_its_picture(sections: dict[str, list[SpatialData]], name: str) -> None:
    read = io.read_slice(sections[name][0])
    assert read.layout == LAYOUTS[name][1]
    assert read.image is not None and read.counts
    lattice = io.common_lattice(read, read)
    border = lattice.pitch / 2
    inside = ((lattice.centres > border) & (lattice.centres < [WIDTH - border, HEIGHT - border])).all(axis=1)
    inside = inside.reshape(lattice.shape)
    expected = np.clip(colours(*lattice.centres.T), 0, 1).reshape(3, *lattice.shape)
    np.testing.assert_allclose(
        histology_on(read.image, lattice)[:, inside], expected[:, inside], atol=0.06
    )  # a mean beside the value at the middle
    values = io.log_normalise(read.values, read.library).toarray()
    along_x = np.log(values[:, 1::2].mean(axis=1) / values[:, ::2].mean(axis=1))
    assert np.corrcoef(along_x, read.xy[:, 0] - read.xy[:, 1])[0, 1] > 0.5  # rows of the table are where they belong


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_folders_to_plots_and_files(sections: dict[str, list[SpatialData]], name: str, tmp_path: Path) -> None:
    model = "c2sti" if name == "visium" else "linear"  # the default once: layouts matter here, not models
    out = c2sti.tl.interpolate(*sections[name], n_slices=3, model=model, show_progress_bar=False)
    assert out.uns["c2sti"]["virtual_histology"].tolist() == ["c2sti_1", "c2sti_2", "c2sti_3"]
    x, y = out.obsm["spatial"].T
    for section in out.uns["c2sti"]["inserted"]:
        assert np.corrcoef(out[:, "GENE1"].layers[section].ravel(), x - y)[0, 1] > 0.5
        assert np.corrcoef(out[:, "GENE2"].layers[section].ravel(), y - x)[0, 1] > 0.5
    ax = plt.figure().gca()
    sq.pl.spatial_scatter(out, color="GENE1", layer="c2sti_1", shape="square", ax=ax)
    assert len(ax.images) == 1
    plt.close("all")
    sdata = c2sti.tl.to_spatialdata(out, originals={"before": sections[name][0]})
    if name == "xenium":  # which has elements of every kind; zarr takes its time
        sdata.write(tmp_path / "out.zarr")
        assert (tmp_path / "out.zarr" / "tables" / "c2sti_2").is_dir()


def test_a_section_can_be_aligned_by_its_picture(sections: dict[str, list[SpatialData]]) -> None:
    pytest.importorskip("SimpleITK")
    first, second = sections["visium"]
    c2sti.pp.align(first, second, use="both")
    assert second.tables["table"].uns["alignment"]["fit"] > 0.35
    assert abs(second.tables["table"].uns["alignment"]["angle_deg"]) < 3
    out = c2sti.tl.interpolate(
        first, second, coordinate_system="spatial_aligned", model="linear", show_progress_bar=False
    )
    assert out.uns["c2sti"]["virtual_histology"].tolist() == ["c2sti_1"]


def read_quietly(make: Callable[..., SpatialData], *args: Any, **how: Any) -> SpatialData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the readers: names made unique, formats to come, images not there
        return make(*args, **how)


@pytest.mark.parametrize("name", ["visium", "visium_hd"])
def test_spots_outside_of_the_tissue_are_left_out(name: str, tmp_path: Path) -> None:
    sdata = read_quietly(LAYOUTS[name][0], tmp_path / name, 0, outside=30)
    table = next(iter(sdata.tables.values()))
    read = io.read_slice(sdata)
    assert len(read.xy) == table.n_obs - 30
    np.testing.assert_array_equal(read.values.toarray(), table.X.toarray()[:-30])
    assert read.layout == LAYOUTS[name][1] and read.image is not None


@pytest.mark.parametrize("how", [{"names": ("hires",), "alpha": True}, {"names": (), "full": True}])
def test_visium_with_one_image(how: dict[str, Any], tmp_path: Path) -> None:
    """One that is transparent along the upper border, or the full one alone."""
    read = io.read_slice(read_quietly(visium, tmp_path / "v", 0, **how))
    assert read.image is not None and read.no_image == ""
    lattice = Lattice((100.0, 15.0), 20.0, (8, 5))
    found = histology_on(read.image, lattice)
    expected = np.clip(colours(*lattice.centres.T), 0, 1).reshape(found.shape)
    if "alpha" in how:
        expected[:, :2] = 1  # rows of 5 … 25 and 25 … 45; 44 pixels of 360 are glass
    np.testing.assert_allclose(found, expected, atol=0.06)


def test_visium_hd_with_its_full_image_only(tmp_path: Path) -> None:
    read = io.read_slice(read_quietly(visium_hd, tmp_path / "hd", 0, names=()))
    assert read.image is not None and read.image.scale == pytest.approx(1.0)


def test_the_coordinate_system_of_each_section_can_be_named(sections: dict[str, list[SpatialData]]) -> None:
    pair = sections["visium"]
    how: dict[str, Any] = {"model": "linear", "show_progress_bar": False}
    full = c2sti.tl.interpolate(*pair, **how)
    half = c2sti.tl.interpolate(*pair, coordinate_system=[f"section_{i}_downscaled_hires" for i in (0, 1)], **how)
    assert half.uns["c2sti"]["lattice"]["pitch"] == pytest.approx(full.uns["c2sti"]["lattice"]["pitch"] / 2)
    with pytest.raises(KeyError, match="slice_b is in .* not in 'section_0_downscaled_hires'; .*rename_coord"):
        c2sti.tl.interpolate(*pair, coordinate_system="section_0_downscaled_hires", **how)


def test_several_bin_sizes_are_listed(tmp_path: Path) -> None:
    sdata = read_quietly(visium_hd, tmp_path / "hd", 0)
    sdata.tables["square_008um"] = sdata.tables["square_016um"].copy()
    with pytest.raises(ValueError, match=r"tables \['square_008um', 'square_016um'\]; choose one with table_key="):
        io.read_slice(sdata)


def test_cells_whose_element_was_not_read_are_told_what_to_do(sections: dict[str, list[SpatialData]]) -> None:
    cells = sections["xenium"][0]
    with pytest.warns(UserWarning, match="annotating 'cell_labels'"):
        lean = SpatialData(shapes=dict(cells.shapes), tables={"table": cells.tables["table"]})
    with pytest.raises(KeyError, match="annotates 'cell_labels', which is not there.*set_table_annotates"):
        io.read_slice(lean)
