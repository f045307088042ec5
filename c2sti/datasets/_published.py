"""The files that authors of measured series published: their names and hashes, downloads, and sections made of them."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pooch
from anndata import AnnData
from numpy.typing import ArrayLike
from PIL import Image, JpegImagePlugin
from scipy import sparse

from c2sti import _logging
from c2sti.ops import spacing

BASE_URL = "https://raw.githubusercontent.com"
PYPI_URL = "https://files.pythonhosted.org/packages"  # of archives, whose repository is called "pypi"
CACHE = Path(pooch.os_cache("c2sti"))
SPOT_UM, PITCH_UM = 100.0, 200.0  # the legacy Spatial Transcriptomics array, of her2st, the heart and Ståhl
VISIUM_SPOT_UM, VISIUM_PITCH_UM = 55.0, 100.0
DLPFC_Z_UM = {"151673": 0.0, "151674": 10.0, "151675": 310.0}
DLPFC_ARCHIVE = "paste2-1.0.1.tar.gz"
CHEMISTRY = "Spatial Transcriptomics (legacy, 1007 spots)"
LONGEST_SIDE_PX = {"hires": 1700, "lowres": 600}
OF_ONE_BLOCK = {  # sections of series without tumours
    "developing_heart": tuple("123456789"),
    "stahl": tuple("1234"),
    "dlpfc": tuple(DLPFC_Z_UM),
    "starmap": tuple("12345678"),
}


@dataclass(frozen=True)
class Source:
    """A row of `_sources.csv`: one published file; of some, only the git hash is known, and the rest is empty."""

    repository: str
    commit: str
    path: str
    bytes: str
    git_blob_sha1: str
    sha256: str


@cache
def published() -> Mapping[str, Source]:
    """All published files, by their path in the repository."""
    table = resources.files("c2sti.datasets").joinpath("_sources.csv").read_text(encoding="utf-8")
    return {row["path"]: Source(**row) for row in csv.DictReader(table.splitlines())}


@cache
def series() -> Mapping[str, tuple[str, ...]]:
    """Names of the sections of each series, in the order of cutting."""
    names = sorted(Path(path).name.removesuffix(".tsv.gz") for path in published() if path.startswith("data/ST-cnts/"))
    by_tumour = {f"her2st_{t}": tuple(n for n in names if n[0] == t) for t in sorted({n[0] for n in names})}
    return {"her2st": tuple(names), **by_tumour, **OF_ONE_BLOCK}


# -- downloads


def fetch(path: str) -> Path:
    """The cached copy of a published file, downloaded where there is none or where it was altered."""
    source = published()[path]
    folder = CACHE / source.repository / source.commit
    url = f"{PYPI_URL if source.repository == 'pypi' else f'{BASE_URL}/{source.repository}'}/{source.commit}/"

    def download(url: str, output: str, store: pooch.Pooch) -> None:
        pooch.HTTPDownloader(timeout=60)(url, output, store)
        found = _git_blob_sha1(Path(output))
        if found != source.git_blob_sha1:  # pooch gives `output` its final name only after this
            size = f"{source.bytes} bytes, " if source.bytes else ""
            raise OSError(
                f"the download is corrupted or incomplete: expected {size}git blob {source.git_blob_sha1}, "
                f"found {Path(output).stat().st_size} bytes, git blob {found}"
            )

    if (folder / path).exists() and _git_blob_sha1(folder / path) != source.git_blob_sha1:
        (folder / path).unlink()  # pooch itself would keep an altered file whose sha256 is not known
    try:
        known = {path: f"sha256:{source.sha256}" if source.sha256 else None}
        return Path(pooch.Pooch(folder, url, registry=known).fetch(path, downloader=download))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; of a wrong sha256 pooch makes a ValueError
        raise OSError(
            f"{path} could not be had from {url}{path}: {error}. Nothing of it was kept. Check the connection and call "
            f"again, or save that file as {folder / path}."
        ) from error


def _git_blob_sha1(file: Path) -> str:
    """The hash by which git knows a file: of some sources only the commit is known."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


# -- from published files to sections


def her2st(section: str, *, image: bool) -> AnnData:
    """A section of :func:`c2sti.datasets.her2st` from the authors' files."""
    counts = pd.read_csv(fetch(f"data/ST-cnts/{section}.tsv.gz"), sep="\t", index_col=0)
    spots = pd.read_csv(fetch(f"data/ST-spotfiles/{section}_selection.tsv"), sep="\t")
    spots = spots[spots["selected"] == 1].drop_duplicates(["x", "y"])  # under tissue
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)  # as those of the counts
    counts = counts.loc[counts.index.isin(spots.index)]
    spots = spots.loc[counts.index]
    adata = _section(section, counts, spots[["pixel_x", "pixel_y"]], row=spots["y"], column=spots["x"])
    adata.obs["array_x_adj"] = spots["new_x"].to_numpy()
    adata.obs["array_y_adj"] = spots["new_y"].to_numpy()
    adata.obs["patient"] = pd.Categorical([section[0]] * adata.n_obs)
    adata.uns["section"] = _her2st_section(section, spots)
    labels = f"data/ST-pat/lbl/{section}_labeled_coordinates.tsv"
    if labels in published():
        adata.obs["pathologist_label"] = _her2st_labels(fetch(labels), spots)
    if image:
        path = next(path for path in published() if path.startswith(f"data/ST-imgs/{section[0]}/{section}/"))
        _add_photograph(adata, section, path)
    return adata


def _her2st_labels(file: Path, spots: pd.DataFrame) -> pd.Categorical:
    """Labels of `spots`, by measured position: the pixels of that table are another image's."""
    table = pd.read_csv(file, sep="\t").round({"x": 3, "y": 3}).drop_duplicates(["x", "y"])
    label = table.set_index(["x", "y"])["label"]
    return pd.Categorical(label.reindex(pd.MultiIndex.from_frame(spots[["new_x", "new_y"]].round(3))))


def _her2st_section(section: str, spots: pd.DataFrame) -> dict[str, object]:
    # the published positions are given both in pitches and in pixels, and their ratio is the only scale there is
    pixels_per_pitch = [np.polyfit(spots[f"new_{axis}"], spots[f"pixel_{axis}"], 1)[0] for axis in "xy"]
    return {
        "dataset": "her2st",
        "section_id": section,
        "section_index": int(section[1:]),
        "n_sections": len(series()[f"her2st_{section[0]}"]),
        "patient": section[0],
        "registered": False,
        "um_per_px_fullres": float(PITCH_UM / np.mean(pixels_per_pitch)),
        "spot_diameter_um": SPOT_UM,
        "spot_pitch_um": PITCH_UM,
        "section_thickness_um": float("nan"),
        "section_spacing_um": float("nan"),
        "section_spacing_note": "thickness and spacing are not stated in the repository (16 um is usual for this "
        "protocol, unverified); section_index follows the repository numbering, which follows the slide wells",
        "has_image": False,
        "image_kind": "none",
        "source_file_blob": "",
        "licence": "none stated in the GitHub repo; paper is CC BY 4.0; the Zenodo record is public",
    }


def stahl(section: str) -> AnnData:
    """A section of :func:`c2sti.datasets.stahl` from PASTE's files."""
    counts = pd.read_csv(fetch(f"sample_data/slice{section}.csv"), index_col=0)
    position = np.loadtxt(fetch(f"sample_data/slice{section}_coor.csv"), delimiter=",")
    adata = _section(f"BC{section}", counts, position * PITCH_UM, row=position[:, 1], column=position[:, 0])
    adata.uns["section"] = {
        "dataset": "stahl_bc",
        "section_id": f"BC{section}",
        "section_index": int(section),
        "n_sections": len(OF_ONE_BLOCK["stahl"]),
        "patient": "BC",
        "registered": False,
        "um_per_px_fullres": 1.0,
        "array_step_um": PITCH_UM,
        "section_thickness_um": float("nan"),
        "section_spacing_note": "consecutive; spacing not stated in the repo",
        "gene_subset": "genes kept by PASTE",
        "has_image": False,
        "image_kind": "none",
        "licence": "BSD-3 (package); data Stahl et al. 2016",
    }
    return adata


def dlpfc(section: str) -> AnnData:
    """A section of :func:`c2sti.datasets.dlpfc` from PASTE2's archive."""
    archive = fetch(DLPFC_ARCHIVE)
    member = f"{DLPFC_ARCHIVE.removesuffix('.tar.gz')}/sample_data/{section}.h5ad"
    _logging.info(f"unpacking {member} of {archive}")
    with tempfile.TemporaryDirectory() as folder:
        # One file, by its name, of an archive whose hash is known.
        (file,) = pooch.Untar(members=[member], extract_dir=folder)(str(archive), "update", None)
        published = ad.read_h5ad(file)
    obs = published.obs[["in_tissue", "array_row", "array_col"]].copy()
    obs["layer"] = published.obs["layer_guess_reordered_short"].astype(str).astype("category")
    obs["cell_count"] = published.obs["cell_count"]
    obs["z_um"] = DLPFC_Z_UM[section]
    # behind its barcode a spot has the number of its name's repetition in a larger table
    obs.index = obs.index.str.replace(r"\.\d+$", "", regex=True)
    xy = np.asarray(published.obsm["spatial"], dtype=float)
    x = sparse.csr_matrix(published.X, dtype=np.float32)
    return AnnData(x, obs=obs, var=published.var[["gene_ids"]].copy(), obsm={"spatial": xy})


def dlpfc_section(section: str, adata: AnnData) -> dict[str, object]:
    """What `uns["section"]` says of a section of :func:`c2sti.datasets.dlpfc`."""
    has_image = "spatial" in adata.uns
    return {
        "dataset": "dlpfc",
        "section_id": section,
        "section_index": list(DLPFC_Z_UM).index(section) + 1,
        "n_sections": len(DLPFC_Z_UM),
        "patient": "Br8100",
        "registered": False,
        # neighbours of the honeycomb are a pitch apart, and all spots of a slide alike
        "um_per_px_fullres": VISIUM_PITCH_UM / spacing(np.asarray(adata.obsm["spatial"])),
        "spot_diameter_um": VISIUM_SPOT_UM,
        "spot_pitch_um": VISIUM_PITCH_UM,
        "z_um": DLPFC_Z_UM[section],
        "has_image": has_image,
        "image_kind": "H&E (low resolution)" if has_image else "none",
        "licence": "BSD-3 (package); data Maynard et al. 2021",
    }


def _section(name: str, counts: pd.DataFrame, xy: ArrayLike, *, row: ArrayLike, column: ArrayLike) -> AnnData:
    obs = pd.DataFrame({"in_tissue": 1}, index=[f"{name}_{spot}" for spot in counts.index])
    obs["array_row"], obs["array_col"] = np.asarray(row), np.asarray(column)
    obs["section"] = pd.Categorical([name] * len(counts))
    x = sparse.csr_matrix(counts.to_numpy(dtype=np.float32))
    return AnnData(x, obs=obs, var=pd.DataFrame(index=counts.columns), obsm={"spatial": np.asarray(xy, dtype=float)})


def _add_photograph(adata: AnnData, library: str, path: str) -> None:
    file, section = fetch(path), adata.uns["section"]
    images, width, height = _photograph(file)
    scale = {f"tissue_{name}_scalef": pixels.shape[1] / width for name, pixels in images.items()}
    diameter = section["spot_diameter_um"] / section["um_per_px_fullres"]
    adata.uns["spatial"] = {
        library: {
            "images": images,
            # the array has no fiducial circles, but readers of Visium expect their key
            "scalefactors": {**scale, "spot_diameter_fullres": diameter, "fiducial_diameter_fullres": diameter},
            "metadata": {"chemistry_description": CHEMISTRY, "source_image_path": path},
        }
    }
    section.update(
        has_image=True,
        image_kind="H&E (full background)",
        source_file_blob=file.name,
        fullres_width=width,
        fullres_height=height,
        um_per_px_hires=section["um_per_px_fullres"] / scale["tissue_hires_scalef"],
    )


def _photograph(file: Path) -> tuple[dict[str, np.ndarray], int, int]:
    """Decode a JPEG at reduced sizes: ``{"hires": (h, w, 3), "lowres": (h, w, 3)}`` uint8; full width, full height."""
    # Not Image.open: it warns of, or refuses, images as large as these. The content is known by its hash.
    with JpegImagePlugin.JpegImageFile(file) as full:
        width, height = full.size
        scales = {name: min(1.0, longest / max(full.size)) for name, longest in LONGEST_SIDE_PX.items()}
        sizes = {name: (round(width * scale), round(height * scale)) for name, scale in scales.items()}
        full.draft("RGB", sizes["hires"])  # the decoder itself reduces by 2, 4 or 8: less time, less memory
        reduced = full.convert("RGB")
    images = {name: np.asarray(reduced.resize(size, Image.Resampling.LANCZOS)) for name, size in sizes.items()}
    return images, width, height
