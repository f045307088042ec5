"""Do a folder and the authors' files give the same section, and does a bad download leave nothing behind?"""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from c2sti.datasets import _published
from c2sti.datasets._real import developing_heart, dlpfc, her2st, sections, stahl, starmap

DATA = Path(os.environ.get("C2STI_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not (DATA / "her2st").is_dir(), reason=f"no measured sections in {DATA} (C2STI_DATA)")

COUNTS, SPOTS = "data/ST-cnts/A1.tsv.gz", "data/ST-spotfiles/A1_selection.tsv"
LABELS, PHOTO = "data/ST-pat/lbl/A1_labeled_coordinates.tsv", "data/ST-imgs/A/A1/9769_C1_HE_small.jpg"


# -- a server of made files, in the place of the authors' repositories


class Repository:
    """Serves bytes from memory at the published addresses and counts the requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._monkeypatch = monkeypatch
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def publish(self, files: dict[str, bytes], *, sha256: bool = True) -> None:
        """Serve `files` and make their hashes the published ones."""
        sources = dict(_published.published())
        for path, content in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            known = {"git_blob_sha1": blob, "bytes": str(len(content)) if sha256 else ""}
            known["sha256"] = hashlib.sha256(content).hexdigest() if sha256 else ""
            sources[path] = replace(sources[path], **known)
            self.serve(path, content)
        self._monkeypatch.setattr(_published, "published", lambda: sources)

    def serve(self, path: str, content: bytes) -> None:
        source = _published.published()[path]
        folder = "" if source.repository == "pypi" else f"/{source.repository}"  # that of PyPI is the server itself
        self.files[f"{folder}/{source.commit}/{path}"] = content

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, repository: Repository, *args: object) -> None:
        self.repository = repository
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.repository.requests.append(self.path)
        content = self.repository.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        # a body that starts with this mark breaks off early
        length = len(content) if not content.startswith(b"TRUNCATED") else 2 * len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    monkeypatch.delenv("C2STI_DATA", raising=False)
    made = Repository(monkeypatch)
    monkeypatch.setattr(_published, "BASE_URL", made.url)
    monkeypatch.setattr(_published, "PYPI_URL", made.url)
    monkeypatch.setattr(_published, "CACHE", tmp_path / "cache")
    yield made
    made.stop()


def cached(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "cache").rglob("*") if file.is_file())


# -- made raw files, in the authors' layouts


def her2st_files(spots: pd.DataFrame, counts: pd.DataFrame, photograph: bytes) -> dict[str, bytes]:
    """Files of section A1: `spots` (x, y, new_x, new_y, pixel_x, pixel_y, selected, label), `counts` by spot."""
    table = spots.drop(columns="label").to_csv(sep="\t", index=False)
    # as published: other pixels than the spots', rows in another order
    labels = spots[["new_x", "new_y", "label"]].rename(columns={"new_x": "x", "new_y": "y"}).iloc[::-1]
    labels.insert(2, "pixel_x", 0.5)
    return {
        COUNTS: gzip.compress(counts.to_csv(sep="\t").encode()),
        SPOTS: table.encode(),
        LABELS: labels.to_csv(sep="\t").encode(),
        PHOTO: photograph,
    }


def jpeg(width: int, height: int) -> bytes:
    """White on the left, black on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


@pytest.fixture
def tiny() -> dict[str, bytes]:
    """A1 as 3 counted spots, in the order of their names, with 1 more outside the tissue and 1 that has no counts."""
    spots = pd.DataFrame(
        {"x": [11, 10, 10, 12, 13], "y": [12, 13, 12, 12, 12], "new_x": [11.0, 10.5, 10.0, 12.0, 13.0]}
    ).assign(new_y=lambda d: d["y"] + 0.25)
    spots["pixel_x"], spots["pixel_y"] = 210 * spots["new_x"] + 7, 190 * spots["new_y"] - 3
    spots["selected"], spots["label"] = [1, 1, 1, 0, 1], ["tumour", "fat", "tumour", "fat", "fat"]
    counts = pd.DataFrame(
        [[1, 0], [0, 2], [3, 4], [5, 6]], index=["10x12", "10x13", "11x12", "12x12"], columns=["MT-CO1", "AC1.1"]
    )
    return her2st_files(spots, counts, jpeg(2000, 1000))


# -- names


def test_sections_are_named_in_order() -> None:
    assert sections("her2st_A") == ["A1", "A2", "A3", "A4", "A5", "A6"]
    assert sections("her2st_H") == ["H1", "H2", "H3"]
    assert sections("her2st") == [name for tumour in "ABCDEFGH" for name in sections(f"her2st_{tumour}")]
    assert len(sections("her2st")) == 36
    assert sections("developing_heart") == list("123456789")
    assert sections("stahl") == list("1234")
    assert sections("dlpfc") == ["151673", "151674", "151675"]
    assert sections("starmap") == list("12345678")


def test_every_her2st_section_has_its_files() -> None:
    for name in sections("her2st"):
        for path in (f"data/ST-cnts/{name}.tsv.gz", f"data/ST-spotfiles/{name}_selection.tsv"):
            assert len(_published.published()[path].sha256) == 64
        photographs = [p for p in _published.published() if p.startswith(f"data/ST-imgs/{name[0]}/{name}/")]
        assert len(photographs) == 1
    assert all(len(source.git_blob_sha1) == 40 for source in _published.published().values())


def test_unknown_names_list_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"no series 'her2st_Z'.*her2st_H, developing_heart, stahl, dlpfc, starmap"):
        sections("her2st_Z")
    with pytest.raises(ValueError, match=r"her2st has no section 'E4'.*A1, A2, .*H3"):
        her2st("E4")
    with pytest.raises(ValueError, match=r"developing_heart has no section '10'.*1, 2, 3"):
        developing_heart(10)
    with pytest.raises(ValueError, match=r"stahl has no section '0'.*1, 2, 3, 4"):
        stahl(0)
    with pytest.raises(ValueError, match=r"dlpfc has no section '151676'.*151673, 151674, 151675"):
        dlpfc(151676)
    with pytest.raises(ValueError, match=r"starmap has no section '9'"):
        starmap(9)


# -- the folder


def write(folder: Path, file: str, mark: float) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    adata = ad.AnnData(sparse.csr_matrix(np.full((1, 1), mark, np.float32)), obsm={"spatial": np.zeros((1, 2))})
    adata.uns = {"section": {"has_image": True, "image_kind": "H&E"}, "spatial": {"lib": {"images": {}}}}
    adata.write_h5ad(folder / file)


def test_data_dir_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mark, name in enumerate(("named", "environment"), start=1):
        for file in ("her2st/her2st_C3.h5ad", "dev_heart/heart6.5_5.h5ad", "stahl_bc/BC2.h5ad"):
            write(tmp_path / name, file, mark)
    monkeypatch.setenv("C2STI_DATA", str(tmp_path / "environment"))
    for load, name in ((her2st, "C3"), (developing_heart, 5), (stahl, "2")):
        assert load(name, data_dir=tmp_path / "named").X[0, 0] == 1
        assert load(name).X[0, 0] == 2


def test_image_can_be_left_out_of_a_folder_section(tmp_path: Path) -> None:
    write(tmp_path, "her2st/her2st_C3.h5ad", 1)
    adata = her2st("C3", data_dir=tmp_path, image=False)
    assert "spatial" not in adata.uns
    assert adata.uns["section"]["has_image"] is False
    assert "spatial" in her2st("C3", data_dir=tmp_path).uns


def test_missing_sections_say_where_they_were_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("C2STI_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"C2STI_DATA is not set.*her2st\(\"C3\", download=True\)"):
        her2st("C3", download=False)
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded.*developing_heart\(5, data_dir="):
        developing_heart(5)
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded.*starmap\(5, data_dir="):
        starmap(5)
    with pytest.raises(FileNotFoundError, match=r"C2STI_DATA is not set.*dlpfc\(151674, download=True\)"):
        dlpfc(151674, download=False)
    with pytest.raises(FileNotFoundError, match=rf"no stahl_bc/BC2.h5ad in {tmp_path} \(data_dir\)"):
        stahl(2, data_dir=tmp_path, download=False)
    monkeypatch.setenv("C2STI_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"no dev_heart/heart6.5_5.h5ad in {tmp_path} \(C2STI_DATA\)"):
        developing_heart(5)
    with pytest.raises(FileNotFoundError, match="'/no/such/folder' is not a folder"):
        stahl(2, data_dir="/no/such/folder")


def visium(names: list[str]) -> ad.AnnData:
    """Five spots of a honeycomb, 137 pixels apart, in the layout of PASTE2's sample data."""
    xy = 137 * np.array([[0, 0], [1, 0], [0.5, 0.75**0.5], [1.5, 0.75**0.5], [2, 0]])
    obs = pd.DataFrame({"in_tissue": 1, "array_row": [0, 0, 1, 1, 0], "array_col": [0, 2, 1, 3, 4]}, index=names)
    obs["cell_count"] = [0, 4, 2, 7, 1]
    obs["layer_guess_reordered_short"] = pd.Categorical(["L1", "L1", "L2", "WM", "L1"])
    obs["sum_umi"] = 3
    var = pd.DataFrame({"gene_ids": ["ENSG1", "ENSG2"], "mean_counts": 0.5}, index=["A", "B"])
    counts = sparse.csr_matrix(np.arange(10, dtype=np.float32).reshape(5, 2))
    return ad.AnnData(counts, obs=obs, var=var, obsm={"spatial": xy.round(), "rgb": np.zeros((5, 3))})


def test_dlpfc_in_a_folder_and_in_its_archive_are_one(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = visium([f"SPOT{i}-1.{i + 2}" for i in range(5)])
    published.write_h5ad(tmp_path / "151674.h5ad")
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "151674.h5ad", "paste2-1.0.1/sample_data/151674.h5ad")
    repository.publish({"paste2-1.0.1.tar.gz": (tmp_path / "p.tar.gz").read_bytes()})
    built = dlpfc(151674)
    assert list(built.obs_names) == [f"SPOT{i}-1" for i in range(5)]
    assert list(built.obs) == ["in_tissue", "array_row", "array_col", "layer", "cell_count", "z_um"]
    assert list(built.obs["layer"]) == ["L1", "L1", "L2", "WM", "L1"]
    assert list(built.var) == ["gene_ids"]
    assert set(built.obsm) == {"spatial"}
    assert built.obs["z_um"].unique().tolist() == [10.0]
    section = built.uns["section"]
    assert section["um_per_px_fullres"] == pytest.approx(100 / 137, rel=0.01)
    assert (section["section_index"], section["n_sections"], section["has_image"]) == (2, 3, False)
    (tmp_path / "folder" / "dlpfc").mkdir(parents=True)
    built.write_h5ad(tmp_path / "folder" / "dlpfc" / "151674.h5ad")
    again = dlpfc("151674", data_dir=tmp_path / "folder")
    assert_same(again, built)
    assert_same_values(again.uns["section"], section)
    assert cached(tmp_path) == ["paste2-1.0.1.tar.gz"]  # what was unpacked is not kept
    assert len(repository.requests) == 1


def test_slabs_of_starmap_carry_their_z(tmp_path: Path) -> None:
    write(tmp_path, "starmap/starmap_3.h5ad", 1)
    slab = ad.read_h5ad(tmp_path / "starmap" / "starmap_3.h5ad")
    slab.uns["section"] = {"name": "starmap_3", "slab": 3, "slab_thickness_units": 10.0}
    slab.write_h5ad(tmp_path / "starmap" / "starmap_3.h5ad")
    assert starmap(3, data_dir=tmp_path).obs["z"].tolist() == [30.0]


# -- the authors' files


def test_her2st_is_built_from_its_files(repository: Repository, tiny: dict[str, bytes]) -> None:
    repository.publish(tiny)
    adata = her2st("A1")
    assert list(adata.obs_names) == ["A1_10x12", "A1_10x13", "A1_11x12"]
    assert list(adata.var_names) == ["MT-CO1", "AC1.1"]
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), [[1, 0], [0, 2], [3, 4]])
    np.testing.assert_allclose(adata.obsm["spatial"], [[2107, 2324.5], [2212, 2514.5], [2317, 2324.5]])
    assert list(adata.obs["pathologist_label"]) == ["tumour", "fat", "tumour"]
    assert list(adata.obs["array_row"]) == [12, 13, 12]
    assert list(adata.obs["array_col"]) == [10, 10, 11]
    assert adata.uns["section"]["um_per_px_fullres"] == pytest.approx(1)
    assert (adata.uns["section"]["section_index"], adata.uns["section"]["n_sections"]) == (1, 6)


def test_her2st_photograph_is_reduced_with_its_scale(repository: Repository, tiny: dict[str, bytes]) -> None:
    repository.publish(tiny)
    adata = her2st("A1")
    library = adata.uns["spatial"]["A1"]
    hires, scale = library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"]
    assert (hires.shape, hires.dtype) == ((850, 1700, 3), np.uint8)
    assert library["images"]["lowres"].shape == (300, 600, 3)
    assert scale == pytest.approx(0.85)
    assert hires[0, round(900 * scale)].min() == 255
    assert hires[0, round(1100 * scale)].max() == 0
    assert library["scalefactors"]["spot_diameter_fullres"] == pytest.approx(100)
    section = adata.uns["section"]
    assert (section["fullres_width"], section["fullres_height"], section["has_image"]) == (2000, 1000, True)
    assert section["um_per_px_hires"] == pytest.approx(1 / 0.85)


def test_small_photographs_are_not_enlarged(tmp_path: Path) -> None:
    (tmp_path / "small.jpg").write_bytes(jpeg(64, 32))
    images, width, height = _published._photograph(tmp_path / "small.jpg")
    assert images["hires"].shape == images["lowres"].shape == (32, 64, 3)
    assert (width, height) == (64, 32)


def test_without_image_no_photograph_is_fetched(repository: Repository, tiny: dict[str, bytes]) -> None:
    repository.publish(tiny)
    adata = her2st("A1", image=False)
    assert "spatial" not in adata.uns
    assert adata.uns["section"]["has_image"] is False
    assert not any(request.endswith(".jpg") for request in repository.requests)


def test_built_sections_can_be_written(repository: Repository, tiny: dict[str, bytes], tmp_path: Path) -> None:
    repository.publish(tiny)
    adata = her2st("A1")
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert set(again.uns["section"]) == set(adata.uns["section"])
    pd.testing.assert_frame_equal(again.obs, adata.obs)


# -- downloads that go well, and those that do not


def test_second_call_needs_no_server(repository: Repository, tiny: dict[str, bytes], tmp_path: Path) -> None:
    repository.publish({path: content for path, content in tiny.items() if path != PHOTO})
    repository.publish({PHOTO: tiny[PHOTO]}, sha256=False)
    first = her2st("A1")
    assert cached(tmp_path) == sorted(Path(path).name for path in tiny)
    repository.stop()
    np.testing.assert_array_equal(her2st("A1").X.toarray(), first.X.toarray())
    assert len(repository.requests) == 4


@pytest.mark.parametrize("sha256", [True, False], ids=["sha256", "git hash only"])
@pytest.mark.parametrize("body", [b"corrupted", b"TRUNCATED", b""], ids=["corrupted", "truncated", "empty"])
def test_bad_content_is_refused(
    repository: Repository, tiny: dict[str, bytes], tmp_path: Path, body: bytes, sha256: bool
) -> None:
    repository.publish(tiny, sha256=sha256)
    repository.serve(SPOTS, body)
    with pytest.raises(OSError, match=r"A1_selection.tsv could not be had from http://127.0.0.1.*call again") as error:
        her2st("A1")
    if body != b"TRUNCATED":
        expected = _published.published()[SPOTS].git_blob_sha1
        assert f"git blob {expected}, found {len(body)} bytes" in str(error.value)
    assert cached(tmp_path) == ["A1.tsv.gz"]  # what was right stays, the rest leaves no trace
    repository.serve(SPOTS, tiny[SPOTS])
    assert her2st("A1").n_obs == 3


def test_missing_file_is_named(repository: Repository, tiny: dict[str, bytes], tmp_path: Path) -> None:
    repository.publish(tiny)
    repository.files.clear()
    with pytest.raises(OSError, match=r"A1.tsv.gz could not be had.*404.*save that file as .*A1.tsv.gz"):
        her2st("A1")
    assert cached(tmp_path) == []


def test_no_server_is_named(repository: Repository, tiny: dict[str, bytes], tmp_path: Path) -> None:
    repository.publish(tiny)
    repository.stop()
    with pytest.raises(OSError, match=r"A1.tsv.gz could not be had from http://127.0.0.1.*Check the connection"):
        her2st("A1")
    assert cached(tmp_path) == []


@pytest.mark.parametrize("sha256", [True, False], ids=["sha256", "git hash only"])
def test_altered_cache_is_fetched_anew(
    repository: Repository, tiny: dict[str, bytes], tmp_path: Path, sha256: bool
) -> None:
    repository.publish(tiny, sha256=sha256)
    her2st("A1")
    (spots,) = (tmp_path / "cache").rglob("A1_selection.tsv")
    spots.write_bytes(b"x\ty")
    assert her2st("A1").n_obs == 3
    assert spots.read_bytes() == tiny[SPOTS]


# -- measured sections


def assert_same(built: ad.AnnData, measured: ad.AnnData) -> None:
    assert list(built.obs_names) == list(measured.obs_names)
    assert list(built.var_names) == list(measured.var_names)
    assert (built.X != measured.X).nnz == 0
    np.testing.assert_allclose(built.obsm["spatial"], measured.obsm["spatial"], rtol=0, atol=1e-9)
    assert set(built.obs) == set(measured.obs)
    for column in built.obs:
        np.testing.assert_array_equal(np.asarray(built.obs[column]), np.asarray(measured.obs[column]))


def assert_same_values(built: dict, measured: dict, *, but: frozenset[str] = frozenset()) -> None:
    assert set(built) == set(measured)
    for key in set(built) - but:
        if isinstance(built[key], dict):
            assert_same_values(built[key], measured[key])
        elif isinstance(built[key], float):
            assert built[key] == pytest.approx(measured[key], rel=1e-5, nan_ok=True), key
        else:
            np.testing.assert_array_equal(built[key], measured[key], err_msg=key)


def raw_her2st(measured: ad.AnnData, photograph: bytes = b"") -> dict[str, bytes]:
    """The published files of a section, from its measured values."""
    obs = measured.obs
    spots = pd.DataFrame({"x": obs["array_col"], "y": obs["array_row"]})
    spots["new_x"], spots["new_y"] = obs["array_x_adj"], obs["array_y_adj"]
    spots[["pixel_x", "pixel_y"]] = measured.obsm["spatial"]
    spots["selected"], spots["label"] = 1, obs.get("pathologist_label", "")
    names = [name.split("_")[1] for name in measured.obs_names]
    counts = pd.DataFrame(measured.X.toarray().astype(int), index=names, columns=measured.var_names)
    return her2st_files(spots.sample(frac=1, random_state=0), counts, photograph)


@needs_data
@pytest.mark.parametrize("name", ["C3", "B4", "A1"])
def test_her2st_files_give_the_measured_section(repository: Repository, name: str) -> None:
    measured = her2st(name, data_dir=DATA)[:, :300].copy()
    source = next(path for path in _published.published() if path.startswith(f"data/ST-imgs/{name[0]}/{name}/"))
    photograph = DATA / "her2st" / "img" / f"{name}_{Path(source).name}"
    files = raw_her2st(measured, photograph.read_bytes() if photograph.exists() else b"")
    files[source] = files.pop(PHOTO)
    files = {path.replace("A1", name) if "ST-imgs" not in path else path: files[path] for path in files}
    repository.publish({path: files[path] for path in files if path in _published.published()})
    built = her2st(name, image=photograph.exists())
    assert_same(built, measured)
    if photograph.exists():
        assert_same_values(built.uns["spatial"], measured.uns["spatial"])
        assert_same_values(
            built.uns["section"], measured.uns["section"], but=frozenset({"section_spacing_note"})
        )  # theirs names the wells of A–D


@needs_data
def test_stahl_files_are_the_published_ones(repository: Repository) -> None:
    """Written back in PASTE's format, the folder's layer has the published hashes, so the true download path is run."""
    measured = stahl(2, data_dir=DATA)
    names = [name.split("_")[1] for name in measured.obs_names]
    position = io.BytesIO()
    np.savetxt(position, measured.obs[["array_col", "array_row"]].to_numpy(), delimiter=",")
    repository.serve("sample_data/slice2_coor.csv", position.getvalue())
    counts = pd.DataFrame(measured.X.toarray().astype(int), index=names, columns=measured.var_names)
    repository.serve("sample_data/slice2.csv", counts.to_csv().encode())
    built = stahl(2)
    assert_same(built, measured)
    assert_same_values(built.uns["section"], measured.uns["section"])


@needs_data
def test_measured_sections_are_what_they_say() -> None:
    series = {
        "her2st": [her2st(name, data_dir=DATA, download=False) for name in ("A3", "C2")],
        "developing_heart": [developing_heart(name, data_dir=DATA) for name in (5, 6, 7)],
        "stahl": [stahl(name, data_dir=DATA, download=False) for name in (1, 3)],
    }
    for adata in (adata for loaded in series.values() for adata in loaded):
        assert isinstance(adata.X, sparse.csr_matrix)
        assert adata.X.dtype == np.float32
        assert adata.X.data.min() > 0
        assert np.all(adata.X.data == np.round(adata.X.data))
        assert adata.obsm["spatial"].shape == (adata.n_obs, 2)
        assert adata.uns["section"]["spot_pitch_um"] == 200
        assert adata.uns["section"]["has_image"] == ("spatial" in adata.uns)
        assert adata.var_names.is_unique
    z = [adata.uns["section"]["z_um"] for adata in series["developing_heart"]]
    np.testing.assert_allclose(np.diff(z), [17.92, 143.36])  # µm, uneven
    assert [adata.uns["section"]["section_index"] for adata in series["stahl"]] == [1, 3]


@needs_data
def test_measured_cortex_is_what_it_says() -> None:
    layers = {"L1", "L2", "L3", "L4", "L5", "L6", "WM"}
    for name in sections("dlpfc"):
        adata = dlpfc(name, data_dir=DATA, download=False)
        assert np.all(adata.X.data == np.round(adata.X.data))
        assert set(adata.obs["layer"]) == layers
        assert adata.obs["z_um"].unique().tolist() == [adata.uns["section"]["z_um"]]
        assert adata.uns["section"]["has_image"] == ("spatial" in adata.uns)
    slabs = [starmap(name, data_dir=DATA) for name in sections("starmap")]
    assert [slab.obs["z"].iloc[0] for slab in slabs] == [10.0 * i for i in range(1, 9)]
    assert all((slab.obs["cell_z"] - slab.obs["z"]).between(0, 10).all() for slab in slabs)
    assert len({tuple(slab.var_names) for slab in slabs}) == 1


@needs_data
@pytest.mark.parametrize(("load", "name"), [(her2st, "C3"), (her2st, "A2"), (stahl, 4)])
def test_neighbouring_spots_are_a_pitch_apart(load: Callable[..., ad.AnnData], name: str | int) -> None:
    adata = load(name, data_dir=DATA)
    xy = adata.obsm["spatial"] * adata.uns["section"]["um_per_px_fullres"]
    site = adata.obs[["array_col", "array_row"]].round().to_numpy()
    adjacent = np.abs(site[:, None] - site[None]).sum(axis=-1) == 1
    # not the distance to the nearest spot: spots are printed with a scatter, so that one is shorter
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)[adjacent]
    assert distance.mean() == pytest.approx(200, rel=0.01)
