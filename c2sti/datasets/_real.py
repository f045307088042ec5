"""Measured series of serial sections by name, from a folder of the user or the files that their authors published."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
from anndata import AnnData

from c2sti import _logging, _validators
from c2sti.datasets import _published
from c2sti.datasets._published import PITCH_UM, SPOT_UM

FOLDER_VARIABLE = "C2STI_DATA"


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
    known = _published.series()
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
    publish = partial(_published.her2st, image=image) if download else None
    fix = f'Call her2st("{section}", download=True)'
    adata = _load("her2st", section, data_dir, f"her2st/her2st_{section}.h5ad", publish, fix)
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
    origin = "It cannot be downloaded: it was made from github.com/MickanAsp/Developmental_heart (Asp et al. 2019)."
    fix = f'{origin} Call developing_heart({section}, data_dir="<folder>")'
    return _load("developing_heart", section, data_dir, f"dev_heart/heart6.5_{section}.h5ad", None, fix)


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
    publish, fix = _published.stahl if download else None, f"Call stahl({section}, download=True)"
    adata = _load("stahl", section, data_dir, f"stahl_bc/BC{section}.h5ad", publish, fix)
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
    publish, fix = _published.dlpfc if download else None, f"Call dlpfc({section}, download=True)"
    adata = _load("dlpfc", section, data_dir, f"dlpfc/{section}.h5ad", publish, fix)
    adata.uns["section"] = {**adata.uns.get("section", {}), **_published.dlpfc_section(str(section), adata)}
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
    origin = "It cannot be downloaded: no file of a slab is published under a licence (Wang et al. 2018)."
    fix = f'{origin} Call starmap({section}, data_dir="<folder>")'
    adata = _load("starmap", section, data_dir, f"starmap/starmap_{section}.h5ad", None, fix)
    adata.obs["z"] = int(section) * float(adata.uns["section"]["slab_thickness_units"])
    return adata


def _load(
    series: str,
    section: int | str,
    data_dir: str | Path | None,
    file: str,
    publish: Callable[[str], AnnData] | None,
    fix: str,
) -> AnnData:
    """A section from the folder of the user or, where it is not there, by `publish`: without that, an error."""
    known = _published.series()[series]
    if str(section) not in known:
        raise ValueError(f"{series} has no section {str(section)!r}; those that exist are {', '.join(known)}.")
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
    if publish is not None:
        return publish(str(section))
    looked = f"no folder is named: data_dir is None and {FOLDER_VARIABLE} is not set"
    if folder is not None:
        looked = f"there is no {file} in {folder} ({argument})"
    raise FileNotFoundError(f"{looked}. {fix}, or let {FOLDER_VARIABLE} name the folder that holds {file}.")
