"""Every string that c2sti writes into AnnData or SpatialData, in one place."""

from __future__ import annotations

SPATIAL = "spatial"  # obsm: coordinates; uns: images, by library (squidpy's convention)
ALIGNED = "spatial_aligned"  # obsm and uns: the same after pp.align, in the frame of the reference
SPATIAL_3D = "spatial_3d"  # obsm: (x, y, z), written by tl.to_slices
Z_UM = "z_um"  # obs: depth of a section in µm
Z = "z"  # obs: depth of a section, unit unknown
IN_TISSUE = "in_tissue"  # obs, by 10x's convention: 0 where a spot of the array has no tissue under it

LOG1P = "log1p"  # uns: that expression is log1p of something, by scanpy's convention
RESULT = "c2sti"  # uns: provenance of a result; prefix of the interpolated layers (`key_added`)
SLICE_A, SLICE_B = "slice_a", "slice_b"  # layers: the two measured sections, brought to the rows of the result
SUPPORT = "support"  # obs: which measured section covers a row: "both", "a", "b" or "none"
SECTION = "section"  # obs of tl.to_slices: which section a row belongs to
INSERTED = "inserted"  # obs: whether X of a row was interpolated, not measured
SPOT = "spot"  # obs of tl.to_slices, and end of a column's name in a result: the measured spot behind a row
LIBRARY_SIZE = "library_size"  # obs of a stack, and end of a column's name in a result: counts of a measured spot
STD = "std"  # layers of a stack, and end of a layer's name in a result: standard deviation of interpolated values
LOWER, UPPER = "lower", "upper"  # the same: ends of the interval for a measured value
CONFIDENCE = "confidence"  # obs of a stack, and end of a column's name in a result: 0 to 1
EXPECTED_PCC = "expected_pcc"  # var of a result: what each gene is expected to reach with a measured section
PAIR_CHECK = "pair_check"  # uns of a result: whether the two sections match, in numbers
COEXPRESSION = "coexpression"  # varp and uns: gene graphs
ALIGNMENT = "alignment"  # uns: how a section was brought into the frame of another
VIRTUAL_HISTOLOGY = "virtual_histology"  # uns of a result: sections whose H&E is virtual, not photographed
PLANE = "plane"  # uns of an oblique section: where it lies
STATISTICS = "statistics"  # uns of a result: what a test on its interpolated values says, and what to use in place
EVALUATION = "evaluation"  # uns of a held-out section of tl.evaluate: which one, and which layers are predictions
COUNTS = "counts"  # uns of what tl.sample_counts gives: how its counts were drawn
CELLS = "cells"  # uns of what tl.interpolate_cells gives: how its cells were chosen
FROM_SECTION, FROM_CELL = "from_section", "from_cell"  # obs of the same: the measured cell that a row was made from
OBSM_KEYS = "obsm_keys"  # uns of a result: the tables that were carried along
OBS_KEYS = "obs_keys"  # uns of a result: the annotations that were carried along
TAKEN = frozenset(
    {"tissue", "array_row", "array_col", "_index", SUPPORT, SECTION, INSERTED, Z, CONFIDENCE, LIBRARY_SIZE, SPOT}
    | {SPATIAL, SPATIAL_3D, "factors", "noise"}
)  # no annotation may be called so


def inserted(key_added: str, n: int) -> list[str]:
    """Layer names of n interpolated sections, ``c2sti_1 … c2sti_n``, from a to b."""
    return [f"{key_added}_{i}" for i in range(1, n + 1)]


def measured(place: int) -> str:
    """Name of a measured section of a series, by its place in it: ``slice_0``, ``slice_1`` …."""
    return f"slice_{place}"


def tissue(section: str) -> str:
    """`obs` column that says which rows lie inside a section's tissue."""
    return f"{section}_tissue"


def seen(section: str) -> str:
    """`obs` column that says which rows lie in the capture window of a measured section."""
    return f"{section}_seen"


def spot(section: str) -> str:
    """`obs` column that names the measured spot whose values a row of a measured section's layer has."""
    return f"{section}_{SPOT}"


def layer_of(section: str, kind: str) -> str:
    """Layer with `STD`, `LOWER` or `UPPER` of an interpolated section's values."""
    return f"{section}_{kind}"


def confidence(section: str) -> str:
    """`obs` column with the confidence in each bin of an interpolated section."""
    return f"{section}_{CONFIDENCE}"


def library_size(section: str) -> str:
    """`obs` column with the counts of a measured section's spots, over all genes that it has."""
    return f"{section}_{LIBRARY_SIZE}"


def graph(section: str) -> str:
    """`varp` key of a section's gene co-expression graph."""
    return f"{COEXPRESSION}_{section}"


def annotation(section: str, key: str) -> str:
    """`obs` column (and, of labels, `obsm` key of the probabilities) of a section's annotation."""
    return f"{section}_{key}"


def colours(key: str) -> str:
    """`uns` key of the colours of labels, by scanpy's convention."""
    return f"{key}_colors"


def label_column(label: str) -> str:
    """Column of a label's probabilities: files take "/" for a folder."""
    return label.replace("/", "|")
