"""A stack of sections as an OME-Zarr image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from anndata import AnnData
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

import c2sti
from c2sti.datasets import phantom
from c2sti.tl import _to_volume


@pytest.fixture(scope="module")
def slices() -> list[AnnData]:
    return phantom(seed=2, size=10, n_genes=20).series([0.0, 100.0, 250.0], image=False)


@pytest.fixture(scope="module")
def stack(slices: list[AnnData]) -> AnnData:
    return c2sti.tl.interpolate_series(slices, spacing=50.0, model="linear", show_progress_bar=False)


def voxels(path: Path) -> np.ndarray:
    (node,) = list(Reader(parse_url(path))())
    return np.asarray(node.data[0])


def layered(slices: list[AnnData], **keywords: object) -> AnnData:
    return c2sti.tl.interpolate(slices[0], slices[1], model="linear", show_progress_bar=False, **keywords)


def test_readers_find_the_genes_where_the_tissue_is(stack: AnnData, tmp_path: Path) -> None:
    genes = list(stack.var_names[[5, 2]])
    path = c2sti.tl.to_volume(stack, tmp_path / "genes.zarr", genes=genes, um_per_unit=0.5)
    assert path == tmp_path / "genes.zarr"
    (node,) = list(Reader(parse_url(path))())
    assert node.metadata["channel_names"] == genes
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "z", "y", "x"]
    assert {axis["unit"] for axis in node.metadata["axes"][1:]} == {"micrometer"}
    scale, translation = node.metadata["coordinateTransformations"][0]
    lattice = stack.uns["c2sti"]["lattice"]
    np.testing.assert_allclose(scale["scale"], [1, 50, lattice["pitch"] / 2, lattice["pitch"] / 2])
    volume = np.asarray(node.data[0])
    assert volume.shape == (2, 6, *lattice["shape"])
    # every row of the stack is found again at the place that the file says it has
    x, y, z = stack.obsm["spatial_3d"].T * [[0.5], [0.5], [1.0]]
    at = (np.stack([z, y, x]) - np.array(translation["translation"])[1:, None]) / np.array(scale["scale"])[1:, None]
    np.testing.assert_allclose(at, at.round(), atol=1e-6)
    where = tuple(at.round().astype(int))
    for channel, gene in zip(volume, genes, strict=True):
        np.testing.assert_array_equal(channel[where], stack[:, gene].X.ravel())
    assert np.isfinite(volume).sum() == 2 * stack.n_obs
    attributes = zarr.open_group(path, mode="r").attrs["c2sti"]
    assert attributes["synthetic"] is True
    assert attributes["inserted"] == [False, True, False, True, True, False]
    assert list(tmp_path.iterdir()) == [path]  # nothing is left beside it


def test_napari_opens_it(stack: AnnData, tmp_path: Path) -> None:
    """By its plugin's reader: a layer for each gene, in µm along z, y and x."""
    reader = pytest.importorskip("napari_ome_zarr")
    genes = list(stack.var_names[:2])
    path = str(c2sti.tl.to_volume(stack, tmp_path / "genes.zarr", genes=genes))
    ((data, how, kind),) = reader.napari_get_reader(path)(path)
    assert kind == "image"
    assert how["channel_axis"] == 0
    assert how["name"] == [f"genes: {gene}" for gene in genes]
    assert how["axis_labels"] == ("z", "y", "x")
    assert how["units"] == ("micrometer",) * 3
    pitch = stack.uns["c2sti"]["lattice"]["pitch"]
    assert how["scale"] == [50.0, pitch, pitch]
    assert all(low == 0 < high for low, high in how["contrast_limits"])
    np.testing.assert_array_equal(data[0], voxels(Path(path)))


def test_metadata_are_those_of_ngff(stack: AnnData, tmp_path: Path) -> None:
    """What version 0.5 of the specification asks of an image, for readers that are not at hand."""
    path = c2sti.tl.to_volume(stack, tmp_path / "genes.zarr", genes=["gene_001"])
    group = zarr.open_group(path, mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert [(axis["name"], axis["type"]) for axis in image["axes"]] == [
        ("c", "channel"), ("z", "space"), ("y", "space"), ("x", "space")
    ]  # fmt: skip
    (dataset,) = image["datasets"]
    assert [one["type"] for one in dataset["coordinateTransformations"]] == ["scale", "translation"]
    assert all(len(one[one["type"]]) == 4 for one in dataset["coordinateTransformations"])
    array = group[dataset["path"]]
    assert array.metadata.dimension_names == ("c", "z", "y", "x")
    (channel,) = ome["omero"]["channels"]
    assert set(channel["window"]) == {"min", "max", "start", "end"}
    assert len(channel["color"]) == 6


def test_the_result_of_a_pair_is_a_volume_too(slices: list[AnnData], tmp_path: Path) -> None:
    out = layered(slices, n_slices=3)
    path = c2sti.tl.to_volume(out, tmp_path / "pair.zarr", genes=out.var_names[0], fill=0.0)
    volume = voxels(path)
    assert volume.shape[:2] == (1, 5)
    assert np.isfinite(volume).all()
    inside = out.obs["c2sti_2_tissue"].to_numpy()
    rows, columns = (out.obs[f"array_{axis}"].to_numpy()[inside] for axis in ("row", "col"))
    np.testing.assert_array_equal(volume[0, 2, rows, columns], out.layers["c2sti_2"][inside, 0])
    # from the deeper section to the upper one: the volume runs downwards all the same
    back = c2sti.tl.interpolate(slices[1], slices[0], n_slices=3, model="linear", show_progress_bar=False)
    mirrored = c2sti.tl.to_volume(back, tmp_path / "back.zarr", genes=out.var_names[0], fill=0.0)
    np.testing.assert_allclose(voxels(mirrored), volume, rtol=1e-6, atol=1e-6)  # float32: sums in another order


def test_sections_without_depth_need_a_gap(slices: list[AnnData], tmp_path: Path) -> None:
    bare = [section.copy() for section in slices]
    for section in bare:
        del section.obs["z_um"]
    out = layered(bare)
    with pytest.raises(ValueError, match="carry no z; give the distance .* gap="):
        c2sti.tl.to_volume(out, tmp_path / "a.zarr", genes=["gene_001"])
    path = c2sti.tl.to_volume(out, tmp_path / "a.zarr", genes=["gene_001"], gap=80.0)
    (node,) = list(Reader(parse_url(path))())
    assert node.metadata["coordinateTransformations"][0][0]["scale"][1] == 40.0


def test_what_is_there_is_replaced_only_when_asked(stack: AnnData, tmp_path: Path) -> None:
    path = c2sti.tl.to_volume(stack, tmp_path / "a.zarr", genes=["gene_001"])
    with pytest.raises(FileExistsError, match="a.zarr exists; .*overwrite=True"):
        c2sti.tl.to_volume(stack, path, genes=["gene_002"])
    c2sti.tl.to_volume(stack, path, genes=["gene_002", "gene_003"], overwrite=True)
    assert voxels(path).shape[0] == 2
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="precious is no zarr, and is not overwritten"):
        c2sti.tl.to_volume(stack, precious, genes=["gene_001"], overwrite=True)
    assert (precious / "thesis.txt").read_text() == "all of it"
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        c2sti.tl.to_volume(stack, tmp_path / "nowhere" / "a.zarr", genes=["gene_001"])


def test_nothing_half_written_stays(stack: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = c2sti.tl.to_volume(stack, tmp_path / "a.zarr", genes=["gene_001"])
    before = voxels(path)

    def fails(*_: object) -> list[dict]:
        raise OSError("no space left on device")

    monkeypatch.setattr(_to_volume, "_channels", fails)
    with pytest.raises(OSError, match="no space left"):
        c2sti.tl.to_volume(stack, path, genes=["gene_002"], overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(voxels(path), before)


def test_what_was_there_comes_back_where_the_new_one_cannot_be_moved(
    stack: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = c2sti.tl.to_volume(stack, tmp_path / "a.zarr", genes=["gene_001"])
    before, rename = voxels(path), Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if self.suffix == ".zarr" and self.parent != tmp_path:  # written aside
            raise PermissionError("a virus scanner holds it")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    monkeypatch.setattr(Path, "replace", refuses)
    with pytest.raises(PermissionError, match="a virus scanner holds it"):
        c2sti.tl.to_volume(stack, path, genes=["gene_002"], overwrite=True)
    with pytest.raises(PermissionError, match="a virus scanner holds it"):
        c2sti.tl.to_volume(stack, tmp_path / "b.zarr", genes=["gene_002"])
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(voxels(path), before)


BAD: dict[str, tuple[Callable[[AnnData, list[AnnData]], tuple[AnnData, dict]], type[Exception], str]] = {
    "no gene": (lambda stack, _: (stack, {"genes": ["gene_001", "xyz"]}), KeyError, "1 of 2 genes= .*'xyz'"),
    "no genes": (lambda stack, _: (stack, {"genes": []}), ValueError, "genes= is empty"),
    "uneven": (
        lambda _, s: (layered(s, positions=[0.2]), {}),
        ValueError,
        "sections are 20 to 80 apart; .*interpolate_series",
    ),
    "points": (
        lambda _, s: (layered(s, at=s[0].obsm["spatial"] + [13.0, 0.0]), {}),
        ValueError,
        "points given by at=",
    ),
    "a section": (lambda _, s: (s[0], {}), KeyError, "does not hold the result of c2sti.tl.interpolate"),
    "one section": (lambda stack, _: (stack[stack.obs["z"] == 50.0], {}), ValueError, "holds one section"),
    "other key": (
        lambda stack, _: (stack, {"key": "other"}),
        KeyError,
        "does not hold the result of c2sti.tl.interpolate",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_volume_is_refused(stack: AnnData, slices: list[AnnData], tmp_path: Path, case: str) -> None:
    make, error, message = BAD[case]
    adata, keywords = make(stack, slices)
    with pytest.raises(error, match=message):
        c2sti.tl.to_volume(adata, tmp_path / "a.zarr", **{"genes": ["gene_001"], **keywords})
    assert not list(tmp_path.iterdir())
