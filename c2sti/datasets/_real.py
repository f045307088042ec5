"""Measured series of serial sections by name, from the files that their authors published."""

from __future__ import annotations

import csv
import hashlib
import os
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

from c2sti import _logging, _validators
from c2sti.ops import spacing

BASE_URL = "https://raw.githubusercontent.com"
PYPI_URL = "https://files.pythonhosted.org/packages"  # of archives, whose repository is called "pypi"
CACHE = Path(pooch.os_cache("c2sti"))
FOLDER_VARIABLE = "C2STI_DATA"

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


def sections(series: str) -> list[str]:
    """Name the sections of a measured series, in the order of cutting.

    Parameters
    ----------
    series
        ``"her2st_A"`` … ``"her2st_H"`` (one tumour each), ``"her2st"`` (all tumours, one after the other),
        ``"developing_heart"``, ``"stahl"``, ``"dlpfc"`` or ``"starmap"``.

    Returns
    -------
    Names that the function of the series, such as :func:`her2st`, takes as `section`.

    Examples
    --------
    >>> from c2sti.datasets import sections
    >>> sections("her2st_C")
    ['C1', 'C2', 'C3', 'C4', 'C5', 'C6']
    """
    known = _series()
    if not isinstance(series, str) or series not in known:
        raise ValueError(f"There is no series {series!r}; those that exist are {', '.join(known)}.")
    return list(known[series])


def her2st(section: str, *, data_dir: str | Path | None = None, download: bool = True, image: bool = True) -> AnnData:
    """Load a section of the HER2-positive breast cancers of Andersson et al. (2021).

    Eight tumours, A–H, of six (A–D) or three (E–H) sections. Sections of one tumour are not in register: they differ by
    up to 2 mm and 12°.

    Parameters
    ----------
    section
        ``"A1"`` … ``"H3"``: tumour and number, see :func:`sections`.
    data_dir
        Folder that holds ``her2st/her2st_<section>.h5ad``. Default: the one that ``C2STI_DATA`` names.
    download
        Fetch what the folder lacks (about 1 MB, and 4 MB more for the H&E) and keep it in the user's cache.
    image
        Include the H&E. Without it, ``obsm["spatial"]`` stays in pixels of the photograph that is left out.

    Returns
    -------
    Spots × genes (A–D: 176–360 × about 15,500):

    - ``X``: raw counts, CSR float32.
    - ``obs``: ``array_row``, ``array_col``; ``array_x_adj``, ``array_y_adj`` (measured position in pitches);
      ``pathologist_label`` where the authors give it (A1, B1, C1, D1, E1, F1, G2, H1).
    - ``obsm["spatial"]``: (spots, 2) x and y in pixels of the full-resolution photograph.
    - ``uns["spatial"][section]``: the H&E, 1700 and 600 pixels on its longer side, and scale factors; or absent.
    - ``uns["section"]``: among others ``um_per_px_fullres`` (µm, from the spot pitch), ``spot_diameter_um`` (100),
      ``spot_pitch_um`` (200), ``section_index``, ``section_thickness_um`` (NaN: not published), ``has_image``,
      ``licence``.

    Notes
    -----
    A file found in a folder is returned with the image it has or lacks. Nothing stays in the cache of a download that
    fails or is not the published file. Licence: none is stated in the repository; the paper is CC BY 4.0.

    References
    ----------
    Andersson et al. (2021), *Nature Communications* 12, 6012. Data: https://github.com/almaan/her2st

    Examples
    --------
    >>> adata = her2st("C3", image=False)  # doctest: +SKIP
    """
    file, fix = f"her2st/her2st_{section}.h5ad", f'Call her2st("{section}", download=True)'
    adata = _from_folder("her2st", section, data_dir, file, None if download else fix)
    if adata is None:
        adata = _build_her2st(section, image=image)
    if not image and adata.uns.pop("spatial", None) is not None:
        adata.uns["section"].update(has_image=False, image_kind="none")
    return adata


def developing_heart(section: int | str, *, data_dir: str | Path | None = None) -> AnnData:
    """Load a section of the developing human heart (6.5 weeks) of Asp et al. (2019).

    Nine sections, 18 to 158 µm apart, in register. Read from a folder only: no file per section is published.

    Parameters
    ----------
    section
        1 … 9, along the anterior–posterior axis.
    data_dir
        Folder that holds ``dev_heart/heart6.5_<section>.h5ad``. Default: the one that ``C2STI_DATA`` names.

    Returns
    -------
    Spots × genes (91–209 × 20,658, Ensembl identifiers):

    - ``X``: raw counts, CSR float32.
    - ``obs``: ``array_row``, ``array_col``, ``region``, ``n_nuclei``.
    - ``obsm["spatial"]``: (spots, 2) pixels of the full-resolution image.
    - ``obsm["spatial_3d"]``: (spots, 3) x, y, z in µm, the frame that the sections share.
    - ``uns["spatial"]``: an image drawn from the segmented nuclei, not a photograph.
    - ``uns["section"]``: as in :func:`her2st`, and ``z_um``.

    Notes
    -----
    Sections 1 and 2 share 85 of their 90 spots, count for count, at different places: one of them is a copy of the
    other. Leave one out before you judge a method; :func:`c2sti.tl.evaluate` warns. Licence: GPL-3.0 (the repository).

    References
    ----------
    Asp et al. (2019), *Cell* 179, 1647–1660. Data: https://github.com/MickanAsp/Developmental_heart

    Examples
    --------
    >>> adata = developing_heart(5, data_dir="~/sections")  # doctest: +SKIP
    """
    file = f"dev_heart/heart6.5_{section}.h5ad"
    origin = "It cannot be downloaded: it was made from github.com/MickanAsp/Developmental_heart (Asp et al. 2019)."
    fix = f'{origin} Call developing_heart({section}, data_dir="<folder>")'
    adata = _from_folder("developing_heart", str(section), data_dir, file, fix)
    assert adata is not None  # with a fix to name, what is not there is an error
    return adata


def stahl(section: int | str, *, data_dir: str | Path | None = None, download: bool = True) -> AnnData:
    """Load a layer of the breast cancer of Ståhl et al. (2016), as published with PASTE.

    Four consecutive layers without H&E, not in register: layer 3 is rotated by about −136°.

    Parameters
    ----------
    section
        1 … 4.
    data_dir
        Folder that holds ``stahl_bc/BC<section>.h5ad``. Default: the one that ``C2STI_DATA`` names.
    download
        Fetch what the folder lacks (4 MB) and keep it in the user's cache.

    Returns
    -------
    Spots × genes (251–264 × about 7,600; PASTE keeps genes of 15 counts or more):

    - ``X``: raw counts, CSR float32.
    - ``obs``: ``array_row``, ``array_col`` (measured position in pitches, not integers).
    - ``obsm["spatial"]``: (spots, 2) x and y in µm.
    - ``uns["section"]``: as in :func:`her2st`, with ``um_per_px_fullres`` = 1.

    Notes
    -----
    Licence: BSD-3 (the PASTE package).

    References
    ----------
    Ståhl et al. (2016), *Science* 353, 78–82; Zeira et al. (2022), *Nature Methods* 19, 567–575.
    Data: https://github.com/raphael-group/paste

    Examples
    --------
    >>> adata = stahl(2)  # doctest: +SKIP
    """
    file, fix = f"stahl_bc/BC{section}.h5ad", f"Call stahl({section}, download=True)"
    adata = _from_folder("stahl", str(section), data_dir, file, None if download else fix)
    if adata is None:
        adata = _build_stahl(str(section))
    adata.uns["section"].update(spot_diameter_um=SPOT_UM, spot_pitch_um=PITCH_UM)  # files in a folder may lack them
    return adata


def dlpfc(section: int | str, *, data_dir: str | Path | None = None, download: bool = True) -> AnnData:
    """Load a Visium section of the human dorsolateral prefrontal cortex of Maynard et al. (2021), donor Br8100.

    Three sections, not in register: shifts and small turns.

    Parameters
    ----------
    section
        151673, 151674 or 151675.
    data_dir
        Folder that holds ``dlpfc/<section>.h5ad``. Default: the one that ``C2STI_DATA`` names.
    download
        Fetch what the folder lacks (47 MB, for all sections) and keep it in the user's cache.

    Returns
    -------
    Spots × genes (about 2,900 × 10,600–12,400; PASTE2 keeps the spots in tissue that have a layer):

    - ``X``: raw counts, CSR float32.
    - ``obs``: ``in_tissue``, ``array_row``, ``array_col``; ``layer`` (``"L1"`` … ``"L6"``, ``"WM"``, by the authors);
      ``cell_count`` (nuclei in the spot); ``z_um`` (0, 10, 310).
    - ``obsm["spatial"]``: (spots, 2) pixels of the full-resolution image.
    - ``uns["spatial"][section]``: the H&E, 600 pixels a side, where the folder's file has it; none in the download.
    - ``uns["section"]``: as in :func:`her2st`, with ``spot_diameter_um`` = 55 and ``spot_pitch_um`` = 100.

    Notes
    -----
    The donor's fourth section, 151676, is left out. Licence: BSD-3 (the PASTE2 package).

    References
    ----------
    Maynard et al. (2021), *Nature Neuroscience* 24, 425–436; Liu et al. (2023), *Genome Research* 33, 1124–1132.
    Data: https://pypi.org/project/paste2/1.0.1

    Examples
    --------
    >>> adata = dlpfc(151674)  # doctest: +SKIP
    """
    file, fix = f"dlpfc/{section}.h5ad", f"Call dlpfc({section}, download=True)"
    adata = _from_folder("dlpfc", str(section), data_dir, file, None if download else fix)
    if adata is None:
        adata = _build_dlpfc(str(section))
    adata.uns["section"] = {**adata.uns.get("section", {}), **_dlpfc_section(str(section), adata)}
    return adata


def starmap(section: int | str, *, data_dir: str | Path | None = None) -> AnnData:
    """Load a slab of the mouse visual cortex that Wang et al. (2018) measured in three dimensions by STARmap.

    Eight slabs of one block, 10 units thick and in register: single cells, a small panel. Read from a folder only: the
    files that are published state no licence.

    Parameters
    ----------
    section
        1 … 8, from the first z on.
    data_dir
        Folder that holds ``starmap/starmap_<section>.h5ad``. Default: the one that ``C2STI_DATA`` names.

    Returns
    -------
    Cells × genes (about 3,700 × 28):

    - ``X``: intensities, CSR float32, not counts; they fall tenfold from the first slab to the last.
    - ``obs``: ``cell_class``, ``leiden``, ``cell_z`` (of the cell); ``z`` (of the slab), which series are ordered by.
    - ``obsm["spatial"]``: (cells, 2) x and y, in the unit of z, the frame that the slabs share.
    - ``uns["section"]``: among others ``slab`` and ``slab_thickness_units`` (10).

    References
    ----------
    Wang et al. (2018), *Science* 361, eaat5691.

    Examples
    --------
    >>> adata = starmap(4, data_dir="~/sections")  # doctest: +SKIP
    """
    file = f"starmap/starmap_{section}.h5ad"
    origin = "It cannot be downloaded: no file of a slab is published under a licence (Wang et al. 2018)."
    adata = _from_folder(
        "starmap", str(section), data_dir, file, f'{origin} Call starmap({section}, data_dir="<folder>")'
    )
    assert adata is not None  # with a fix to name, what is not there is an error
    adata.obs["z"] = int(section) * float(adata.uns["section"]["slab_thickness_units"])
    return adata


# -- names and folders


def _series() -> dict[str, tuple[str, ...]]:
    names = sorted(Path(path).name.removesuffix(".tsv.gz") for path in published() if path.startswith("data/ST-cnts/"))
    by_tumour = {f"her2st_{t}": tuple(n for n in names if n[0] == t) for t in sorted({n[0] for n in names})}
    return {"her2st": tuple(names), **by_tumour, **OF_ONE_BLOCK}


def _from_folder(series: str, section: str, data_dir: str | Path | None, file: str, fix: str | None) -> AnnData | None:
    """A section from the folder of the user; None, or with a `fix` an error, where it is not there."""
    known = _series()[series]
    if section not in known:
        raise ValueError(f"{series} has no section {section!r}; those that exist are {', '.join(known)}.")
    argument = FOLDER_VARIABLE if data_dir is None else "data_dir"
    named = os.environ.get(FOLDER_VARIABLE) if data_dir is None else _validators.path(data_dir, "data_dir")
    folder = Path(named).expanduser() if named else None
    if data_dir is not None and folder is not None and not folder.is_dir():
        # a mistyped folder must not turn into a silent download
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder; name the one that holds {file}.")
    if folder is not None and (folder / file).is_file():
        _logging.info(f"reading {folder / file}")
        try:
            return ad.read_h5ad(folder / file)
        except OSError as error:
            raise OSError(f"{folder / file} cannot be read as an h5ad ({error}); copy or download it again") from error
    if fix is None:
        return None
    looked = f"no folder is named: data_dir is None and {FOLDER_VARIABLE} is not set"
    if folder is not None:
        looked = f"there is no {file} in {folder} ({argument})"
    raise FileNotFoundError(f"{looked}. {fix}, or let {FOLDER_VARIABLE} name the folder that holds {file}.")


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


def _build_her2st(section: str, *, image: bool) -> AnnData:
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
        "n_sections": len(sections(f"her2st_{section[0]}")),
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


def _build_stahl(section: str) -> AnnData:
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


def _build_dlpfc(section: str) -> AnnData:
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
    # behind its barcode a spot has the number of its name's repetition in a larger table
    obs.index = obs.index.str.replace(r"\.\d+$", "", regex=True)
    xy = np.asarray(published.obsm["spatial"], dtype=float)
    x = sparse.csr_matrix(published.X, dtype=np.float32)
    return AnnData(x, obs=obs, var=published.var[["gene_ids"]].copy(), obsm={"spatial": xy})


def _dlpfc_section(section: str, adata: AnnData) -> dict[str, object]:
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
