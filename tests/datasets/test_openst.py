"""Are Open-ST files read as they were written, and do patches and parts hold what the protocol says?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import c2sti
from c2sti import benchmark, io
from c2sti.datasets import _openst, openst, patches

PX = 0.345
GENES = ["A", "B", "C"]

# -- files in the layout of the pipeline


def lattice(n: int, step: float) -> np.ndarray:
    """(n², 2) row and column, pixels."""
    return np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2) * step + step / 2


def counts_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(2.0, (n, len(GENES))).astype(np.float32)


def write_cells(
    path: Path,
    *,
    at: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    genes: Sequence[str] = tuple(GENES),
    image: np.ndarray | None = None,
    spatial: bool = True,
) -> np.ndarray:
    """Segmented cells, as `openst transcript_assign` writes them, cell 0 first; returns the counts of the others."""
    at = lattice(6, 20.0) if at is None else at
    counts = counts_of(len(at)) if counts is None else counts
    rows = np.vstack([[0, 0], at])
    x = sparse.csc_matrix(np.vstack([np.full(counts.shape[1], 999.0), counts]))
    obs = pd.DataFrame({"x_pos": rows[:, 0], "y_pos": rows[:, 1], "cell_ID_mask": np.arange(len(rows))})
    obs.index = obs.index.astype(str)
    adata = ad.AnnData(
        x, obs=obs, var=pd.DataFrame({"n": np.arange(len(genes))}, index=[f"g{i}" for i in range(len(genes))])
    )
    if spatial:
        adata.obsm["spatial"] = rows
    if image is not None:
        adata.uns["spatial"] = {"staining_image": image, "staining_image_mask": image[..., 0].astype(np.int32)}
    adata.var.index = list(genes)
    path.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path)
    return counts


def write_barcodes(path: Path, **coordinates: np.ndarray) -> None:
    """Barcodes of 0.6 µm, stitched, before they are assigned to cells."""
    n = len(next(iter(coordinates.values())))
    obs = pd.DataFrame({"tile_id": pd.Categorical(["t"] * n), "total_counts": 1}, index=[f"bc{i}" for i in range(n)])
    adata = ad.AnnData(sparse.csr_matrix(counts_of(n)), obs=obs, var=pd.DataFrame(index=GENES), obsm=dict(coordinates))
    adata.write_h5ad(path)


def write_stack(path: Path, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """The registered series as published: X is normalised, counts are a layer, rows of a section lie together."""
    at, counts = lattice(5, 20.0), {number: counts_of(25, number) for number in numbers}
    raw = np.vstack(list(counts.values()))
    section = np.repeat(list(counts), len(at))
    obs = pd.DataFrame({"n_section": section, "cell_ID_mask": 1, "annotation": pd.Categorical(["tumor"] * len(raw))})
    obs.index = obs.index.astype(str)
    adata = ad.AnnData(sparse.csr_matrix(np.log1p(raw)), obs=obs, var=pd.DataFrame(index=GENES))
    adata.layers["raw"] = sparse.csr_matrix(raw)
    adata.obsm["spatial"] = np.vstack([at + 1000 * number for number in numbers])
    adata.obsm["spatial_3d_aligned"] = np.column_stack([np.vstack([at] * len(numbers)), section * 29.0])
    adata.write_h5ad(path)
    return counts


# -- reading


def test_coordinates_counts_and_depth_come_back_in_order(tmp_path: Path) -> None:
    at = {n: lattice(6, 20.0) + n for n in (2, 3, 10)}
    counts = {
        n: write_cells(tmp_path / f"GSM79901{n:02d}_node_S{n}.h5ad", at=at[n], counts=counts_of(36, n)) for n in at
    }
    slices = openst(tmp_path)
    assert [s.uns["section"]["section_id"] for s in slices] == ["S2", "S3", "S10"]  # by number: S10 is last
    for s, n in zip(slices, at, strict=True):
        np.testing.assert_allclose(s.obsm["spatial"], at[n][:, ::-1] * PX)  # (row, column) of pixels → x, y of µm
        np.testing.assert_array_equal(s.X.toarray(), counts[n])  # cell 0, with 999 of each, is gone
        assert (s.obs["z_um"] == 10.0 * n).all()
        assert s.obs["cell_ID_mask"].tolist() == list(range(1, 37))
        assert list(s.var_names) == GENES
        assert not s.uns["section"]["has_image"]
        assert "spatial" not in s.uns
        assert s.uns["section"]["n_sections"] == 3
    assert len(set().union(*(s.obs_names for s in slices))) == 3 * 36
    assert [s.uns["section"]["section_index"] for s in openst(tmp_path, sections=[10, 2])] == [2, 10]


def test_x_runs_along_the_columns_of_the_picture(tmp_path: Path) -> None:
    image = np.full((120, 200, 3), 240, dtype=np.uint8)
    image[40:60, 160:180] = [200, 0, 100]  # under the cell at row 50, column 170
    at = np.stack(np.meshgrid(np.arange(10, 120, 20), np.arange(10, 200, 20), indexing="ij"), axis=-1).reshape(-1, 2)
    write_cells(tmp_path / "a_S1.h5ad", at=at.astype(float), image=image)
    (section,) = openst(tmp_path)
    read = io.read_slice(section)
    (cell,) = np.flatnonzero((at == [50, 170]).all(axis=1))
    np.testing.assert_allclose(read.xy[cell], [170 * PX, 50 * PX])
    lattice_of_cells = io.common_lattice(read, read)
    colours = io.histology_on(read.image, lattice_of_cells).reshape(3, -1).T * 255
    bins = lattice_of_cells.bins(read.xy)
    np.testing.assert_allclose(colours[bins[cell]], [200, 0, 100], atol=1e-3)
    np.testing.assert_allclose(np.delete(colours[bins], cell, axis=0), 240, atol=1e-3)
    assert read.z == 10.0
    assert section.uns["section"]["has_image"]


def test_large_pictures_are_reduced_to_means_of_blocks(tmp_path: Path) -> None:
    image = np.zeros((6, 10, 3), dtype=np.uint8)
    image[..., 0] = np.arange(60).reshape(6, 10)
    image[..., 1] = 7
    write_cells(tmp_path / "a_S1.h5ad", image=image)
    (section,) = openst(tmp_path, image_px=4)  # blocks of 3: the last column holds one pixel
    library = section.uns["spatial"]["S1"]
    pixels = library["images"]["hires"]
    assert pixels.shape == (2, 4, 3)
    # rows 0–2 of columns 0–2 have the mean 11, of column 9 alone 19
    assert pixels[..., 0].tolist() == [[11, 14, 17, 19], [41, 44, 47, 49]]
    assert (pixels[..., 1] == 7).all()
    assert library["scalefactors"]["tissue_hires_scalef"] == pytest.approx(1 / (3 * PX))
    (whole,) = openst(tmp_path)
    np.testing.assert_array_equal(whole.uns["spatial"]["S1"]["images"]["hires"], image)


def test_what_is_no_picture_is_passed_over(tmp_path: Path) -> None:
    write_cells(tmp_path / "a_S1.h5ad", image=np.zeros((6, 10, 3), dtype=np.float32))
    (section,) = openst(tmp_path)
    assert not section.uns["section"]["has_image"]


def test_bins_are_those_of_one_lattice(tmp_path: Path) -> None:
    at = np.array([[1, 1], [9, 8], [1, 12], [25, 1.0]])  # row, column, in units that um_per_px makes µm
    counts = np.array([[1, 0, 2], [3, 0, 0], [0, 5, 0], [0, 0, 7]], dtype=np.float32)
    write_cells(tmp_path / "a_S1.h5ad", at=at, counts=counts)
    (section,) = openst(tmp_path, pitch=10.0, um_per_px=1.0)
    assert section.obsm["spatial"].tolist() == [[5, 5], [15, 5], [5, 25]]
    assert section.X.toarray().tolist() == [[4, 0, 2], [0, 5, 0], [0, 0, 7]]
    assert section.obs["n_points"].tolist() == [2, 1, 1]
    assert section.obs["array_row"].tolist() == [0, 0, 2]
    assert section.obs["array_col"].tolist() == [0, 1, 0]


def test_one_gene_twice_is_added_up_and_genes_are_chosen_by_name(tmp_path: Path) -> None:
    counts = write_cells(tmp_path / "a_S1.h5ad", genes=["A", "B", "A"])
    (section,) = openst(tmp_path)
    assert list(section.var_names) == ["A", "B"]
    np.testing.assert_array_equal(section.X.toarray(), np.column_stack([counts[:, 0] + counts[:, 2], counts[:, 1]]))
    (chosen,) = openst(tmp_path, genes=["B", "A"])
    np.testing.assert_array_equal(chosen.X.toarray(), section.X.toarray()[:, ::-1])
    with pytest.raises(KeyError, match=r"S1 \(a_S1.h5ad\) lacks 1 of 2 genes= \(first: 'Z'\)"):
        openst(tmp_path, genes=["A", "Z"])


def test_barcodes_are_read_by_their_best_alignment(tmp_path: Path) -> None:
    at = lattice(5, 20.0)
    coarse, fine = {"spatial_pairwise_aligned_coarse": at + 1}, {"spatial_pairwise_aligned_fine": at + 2}
    write_barcodes(tmp_path / "a_S1.h5ad", spatial=at, **coarse, **fine)
    write_barcodes(tmp_path / "a_S2.h5ad", spatial=at, **coarse, **fine, spatial_manual_fine=at + 3)
    write_barcodes(tmp_path / "a_S3.h5ad", spatial=at, **coarse)
    for section, shift in zip(openst(tmp_path, um_per_px=1.0), (2, 3, 1), strict=True):
        np.testing.assert_allclose(section.obsm["spatial"], at[:, ::-1] + shift)
    (asked,) = openst(tmp_path, sections=[2], um_per_px=1.0, spatial_key="spatial")
    np.testing.assert_allclose(asked.obsm["spatial"], at[:, ::-1])


def test_the_registered_series_is_read_from_its_layer_of_counts(tmp_path: Path) -> None:
    counts = write_stack(tmp_path / "GSE251926_metastatic_lymph_node_3d.h5ad", [2, 4, 3])
    slices = openst(tmp_path / "GSE251926_metastatic_lymph_node_3d.h5ad")
    assert [s.uns["section"]["section_id"] for s in slices] == ["S2", "S3", "S4"]
    for s, number in zip(slices, (2, 3, 4), strict=True):
        np.testing.assert_array_equal(s.X.toarray(), counts[number])
        np.testing.assert_allclose(s.obsm["spatial"], lattice(5, 20.0)[:, ::-1] * PX)
        assert (s.obs["z_um"] == 10.0 * number).all()
        assert s.uns["section"]["registered"]
    assert list(slices[0].obs["annotation"].unique()) == ["tumor"]


def test_folders_of_spacemake_are_searched(tmp_path: Path) -> None:
    for number in (3, 12):
        write_cells(tmp_path / "processed_data" / f"mLN_S{number}" / "multimodal" / "stitched_segmented.h5ad")
    assert [s.uns["section"]["section_index"] for s in openst(tmp_path)] == [3, 12]


def test_what_is_read_can_be_interpolated(tmp_path: Path) -> None:
    image = np.full((120, 120, 3), 200, dtype=np.uint8)
    for number in (2, 4):
        write_cells(tmp_path / f"a_S{number}.h5ad", image=image)
    a, b = openst(tmp_path)
    out = c2sti.tl.interpolate(a, b, positions=[30.0], model="linear", show_progress_bar=False)
    assert out.uns["c2sti"]["z"].tolist() == [20.0, 30.0, 40.0]
    assert list(out.uns["c2sti"]["virtual_histology"]) == ["c2sti_1"]  # the images were taken
    assert out.n_obs == 36
    np.testing.assert_allclose(np.sort(out.obsm["spatial"], axis=0), np.sort(a.obsm["spatial"], axis=0), rtol=1e-5)


# -- what cannot be read


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"looked for \*\.h5ad and, below it, \*/multimodal/stitched_segmented"):
        openst(tmp_path)
    (tmp_path / "a_S2.h5ad.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"1 files end in \.gz: unpack"):
        openst(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        openst(tmp_path / "nowhere")


def test_names_have_to_tell_the_order(tmp_path: Path) -> None:
    write_cells(tmp_path / "node_S2.h5ad")
    write_cells(tmp_path / "node_S3.h5ad")
    write_cells(tmp_path / "healthy.h5ad")
    with pytest.raises(ValueError, match=r"'healthy' does not end in the number of its section"):
        openst(tmp_path)
    assert len(openst(tmp_path, pattern="node_*.h5ad")) == 2
    write_cells(tmp_path / "tumour_S2.h5ad")
    with pytest.raises(ValueError, match=r"node_S2\.h5ad and tumour_S2\.h5ad both have the number 2"):
        openst(tmp_path, pattern="*_S*.h5ad")
    with pytest.raises(ValueError, match="there is no section 7; those that exist are 2, 3"):
        openst(tmp_path, pattern="node_*.h5ad", sections=[2, 7])


def test_sections_without_coordinates_are_named(tmp_path: Path) -> None:
    write_cells(tmp_path / "a_S1.h5ad", spatial=False)
    with pytest.raises(KeyError, match=r"S1 \(a_S1.h5ad\) has no spatial coordinates: looked for obsm 'spatial'"):
        openst(tmp_path)
    write_barcodes(tmp_path / "a_S1.h5ad", spatial=lattice(5, 20.0))
    with pytest.raises(KeyError, match=r"of barcodes is not on the H&E: run `openst pairwise_aligner`"):
        openst(tmp_path)


def test_a_section_of_the_pooled_row_alone_is_named(tmp_path: Path) -> None:
    write_cells(tmp_path / "a_S1.h5ad", at=np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"S1 \(a_S1.h5ad\) holds no point but the pooled one"):
        openst(tmp_path)


def test_sections_are_counted_by_whole_numbers(tmp_path: Path) -> None:
    file = tmp_path / "series.h5ad"
    write_stack(file, [2, 3])
    adata = ad.read_h5ad(file)
    adata.obs["n_section"] = np.where(adata.obs["n_section"] == 3, 3.5, 2.0)
    adata.write_h5ad(file)
    with pytest.raises(ValueError, match=r"obs\['n_section'\] of .*series.h5ad holds '3.5'; numbers that count"):
        openst(file)


def test_one_file_of_one_section_and_dense_counts_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a_S4.h5ad"
    counts = write_cells(file)
    adata = ad.read_h5ad(file)
    adata.X = adata.X.toarray()
    adata.write_h5ad(file)
    (section,) = openst(file)
    assert section.uns["section"]["section_id"] == "S4"
    np.testing.assert_array_equal(section.X.toarray(), counts)


def test_so_many_points_that_they_should_be_gathered_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(_openst._logging, "warning", said.append)
    monkeypatch.setattr(_openst, "MANY", 35)
    write_cells(tmp_path / "a_S4.h5ad")
    openst(tmp_path)
    openst(tmp_path, pitch=20.0)
    assert said == ["S4 (a_S4.h5ad) has 36 points; pitch=20.0, say, gathers them into bins of 20 µm"]


# -- patches


def series(n: int, side: int = 20, step: float = 10.0, *, image: bool = False) -> list[ad.AnnData]:
    """n sections of side² points, 10 µm apart in depth; the image is as bright as its column, in steps of `step`."""
    slices = []
    for i in range(n):
        xy = lattice(side, step)[:, ::-1].copy()
        adata = ad.AnnData(
            sparse.csr_matrix(counts_of(len(xy), i)), var=pd.DataFrame(index=GENES), obsm={"spatial": xy}
        )
        adata.obs["z_um"] = 10.0 * i
        adata.uns["section"] = {"section_id": f"S{i}"}
        if image:
            ramp = np.tile(np.arange(side, dtype=np.uint8)[None, :, None], (side, 1, 3))
            scalefactors = {"tissue_hires_scalef": 1 / step, "spot_diameter_fullres": step}
            adata.uns["spatial"] = {"he": {"images": {"hires": ramp}, "scalefactors": scalefactors}}
        slices.append(adata)
    return slices


def members(windows: list[list[ad.AnnData]]) -> set[tuple[int, int, int]]:
    return {(p.uns["patch"]["section"], p.uns["patch"]["row"], p.uns["patch"]["column"]) for w in windows for p in w}


def test_a_window_is_one_place_in_consecutive_sections() -> None:
    slices = series(9, image=True)
    parts = patches(slices, size=19, pixel_um=5.0)  # the points span 190 µm, patches are 95 µm: 2 × 2 places
    assert {part: len(windows) for part, windows in parts.items()} == {"train": 4, "validation": 4, "test": 4}
    for window in [w for windows in parts.values() for w in windows]:
        first = window[0].uns["patch"]
        for i, patch in enumerate(window):
            about = patch.uns["patch"]
            assert (about["row"], about["column"]) == (first["row"], first["column"])
            assert about["section"] == first["section"] + i
            assert about["side"] == 95.0
            np.testing.assert_allclose(about["origin"], [5 + 95 * about["column"], 5 + 95 * about["row"]])
            # the patch's points, moved back, are the section's points with their own counts
            section = slices[about["section"]]
            np.testing.assert_allclose(
                patch.obsm["spatial"] + about["origin"], section[patch.obs_names].obsm["spatial"], atol=1e-9
            )
            np.testing.assert_array_equal(patch.X.toarray(), section[patch.obs_names].X.toarray())
            assert patch.n_obs == 100
            assert patch.obsm["spatial"].min() >= 0
            assert patch.obsm["spatial"].max() <= 95.0 + 1e-9


def test_the_picture_of_a_patch_shows_its_place() -> None:
    parts = patches(series(9, image=True), size=19, pixel_um=5.0)
    for window in parts["test"]:
        for patch in window[:1]:
            (library,) = patch.uns["spatial"].values()
            pixels = library["images"]["hires"]
            assert pixels.shape == (19, 19, 3)
            assert pixels.dtype == np.uint8
            assert library["scalefactors"]["tissue_hires_scalef"] == pytest.approx(0.2)
            # pixels of the patch are 5 µm, of the section's image 10 µm, and the patch starts in the middle of one
            start = 5 + 95 * patch.uns["patch"]["column"]
            expected = ((start + 5 * np.arange(19)) // 10).astype(int)
            np.testing.assert_array_equal(pixels[..., 1], np.tile(expected, (19, 1)))
            read = io.read_slice(patch)
            assert read.image is not None


def test_no_section_is_in_two_parts() -> None:
    parts = patches(series(19), size=10, pixel_um=9.5, seed=3)
    of = {part: {section for section, _, _ in members(windows)} for part, windows in parts.items()}
    assert not of["train"] & of["test"]
    assert not of["train"] & of["validation"]
    assert not of["validation"] & of["test"]
    # 13.3, 1.6 and 4.1 sections in proportion; validation needs three for a window
    assert {part: len(found) for part, found in of.items()} == {"train": 12, "validation": 3, "test": 4}
    assert all(found == set(range(min(found), max(found) + 1)) for found in of.values())
    assert {part: len(windows) for part, windows in parts.items()} == {"train": 4 * 10, "validation": 4, "test": 4 * 2}


def test_parts_lie_in_an_order_that_the_seed_draws() -> None:
    def order(seed: int) -> tuple[int, ...]:
        parts = patches(series(9), size=10, pixel_um=19.0, seed=seed)
        return tuple(min(section for section, _, _ in members(parts[part])) for part in ("train", "validation", "test"))

    assert order(0) == order(0) != order(1)


def test_by_patch_the_numbers_are_those_of_the_paper() -> None:
    slices = series(19, side=40)  # 8 × 8 places by default, 25 points each
    with pytest.warns(UserWarning, match='split="patch" leaks: patches of train and test lie beside each other'):
        parts = patches(slices, split="patch")
    held = {part: members(windows) for part, windows in parts.items()}
    # 852 patches are 44 places and 16 sections of another; 100 are its last 3, 5 places, and 2 too few for a window
    assert {part: len(found) for part, found in held.items()} == {"train": 852, "validation": 98, "test": 264}
    counted = {part: len(windows) for part, windows in parts.items()}
    assert counted == {"train": 44 * 17 + 14, "validation": 1 + 5 * 17, "test": 15 + 13 * 17}
    assert len(set().union(*held.values())) == 852 + 98 + 264  # no patch is in two parts
    assert {s for s, _, _ in held["train"]} == {s for s, _, _ in held["test"]} == set(range(19))  # but every section is
    side = parts["train"][0][0].uns["patch"]["side"]
    assert side == pytest.approx(390 / 8)
    assert parts["train"][0][0].uns["patch"]["pixel"] == pytest.approx(390 / 4096)


@pytest.mark.filterwarnings('ignore:split="patch" leaks')
def test_other_numbers_of_patches_are_split_in_proportion() -> None:
    parts = patches(series(4), size=10, pixel_um=9.5, split="patch", shares=(2, 1, 1))  # 4 places of 4 sections
    assert {part: len(members(windows)) for part, windows in parts.items()} == {"train": 8, "validation": 4, "test": 4}
    longer = patches(series(4), size=10, pixel_um=9.5, split="patch", shares=(2, 1, 1), window=4)
    assert {part: len(windows) for part, windows in longer.items()} == {"train": 2, "validation": 1, "test": 1}
    assert all(len(window) == 4 for window in longer["train"])


def test_places_without_tissue_are_left_out() -> None:
    slices = series(9)
    empty = [s[(s.obsm["spatial"] > 100).any(axis=1)].copy() for s in slices]  # nothing at the top left
    slices = [*empty[:2], *slices[2:8], empty[8]]
    parts = patches(slices, size=10, pixel_um=9.5, shares=(1, 0, 0))
    assert parts["validation"] == parts["test"] == []
    assert {(s, r, c) for s, r, c in members(parts["train"]) if r == c == 0} == {(s, 0, 0) for s in range(2, 8)}
    assert len(parts["train"]) == 3 * 7 + 4


def test_a_window_is_a_case_to_train_on_and_a_series_to_judge_by() -> None:
    (window, *_) = patches(series(9), size=10, pixel_um=9.5)["test"]
    (case,) = benchmark.held_out_cases([io.read_slice(patch) for patch in window], most=1)
    assert case.position == pytest.approx(0.5)
    assert case.points.shape == (100, 2)
    table = c2sti.tl.evaluate(window, methods=["copy"], show_progress_bar=False)
    assert "copy" in set(table["method"])


def test_what_cannot_be_cut_says_why() -> None:
    slices = series(3)
    with pytest.raises(ValueError, match="2 sections are too few for windows of 3; give 3 or more"):
        patches(slices[:2])
    with pytest.raises(ValueError, match=r"3 sections are too few to give train, validation, test 3 of their own each"):
        patches(slices)
    with pytest.raises(ValueError, match=r"the sections are 190 x 190, less than one patch of 512 x 512"):
        patches(slices, pixel_um=1.0)
    with pytest.raises(ValueError, match="must run one way; put the slices in their order"):
        patches([slices[0], slices[2], slices[1]])


def test_sections_that_say_less_are_cut_too() -> None:
    """Without depth the order given is believed; where a patch lies beside its image it is white."""
    slices = series(3, image=True)
    for section in slices:
        del section.obs["z_um"], section.uns["section"]
        (library,) = section.uns["spatial"].values()
        library["images"]["hires"] = library["images"]["hires"][:, :11]  # its right part is lost
    parts = patches(slices, size=5, pixel_um=9.5, shares=(1, 0, 0))
    shown = {w[0].uns["patch"]["column"]: w[0].uns["spatial"]["slice_0"]["images"]["hires"] for w in parts["train"]}
    assert {column: bool((pixels == 255).all()) for column, pixels in shown.items()} == {
        0: False,
        1: False,
        2: False,
        3: True,
    }
    assert shown[0].max() == 4  # as bright as the column: 47.5 µm are less than five
    assert all("section" not in patch.uns for w in parts["train"] for patch in w)
