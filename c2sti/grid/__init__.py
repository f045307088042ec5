"""The one boundary between containers and arrays.

`read_slice` turns an AnnData or SpatialData into a `SliceGrid`, `make_pair` lays two of them (and their context) on a
common lattice as the arrays that interpolators take, and `write_slices` turns what they give back into an AnnData,
`stream_layers` into a store on disk. No other file knows where a container keeps anything.
"""

from c2sti.grid._annotations import Annotations, is_labels
from c2sti.grid._blocks import Answer
from c2sti.grid._depth import depth_of_each, position_of
from c2sti.grid._histology import HEImage, Picture, SlideImage, histology_on, image_of
from c2sti.grid._lattice import (
    Rows,
    common_lattice,
    library_sizes,
    make_pair,
    overlap,
    profiles,
    rows_of,
    shared_genes,
    shared_profiles,
)
from c2sti.grid._material import material_places
from c2sti.grid._memory import Extent, Plan, check_dense, check_work, memory_of, plan, plan_anyway, tell
from c2sti.grid._read import (
    LEAST_SPOTS,
    TARGET_SUM,
    SliceGrid,
    check_layer,
    is_counts,
    is_spatialdata,
    layer_names,
    log_normalise,
    read_slice,
)
from c2sti.grid._spatialdata import frame_of, table_of
from c2sti.grid._store import check_digits, new_store, open_store
from c2sti.grid._stream import stream_layers
from c2sti.grid._virtual import library_of, library_of_section, section_picture, section_pictures
from c2sti.grid._write import blank_library, frame_slices, lattice_as_dict, write_slices

__all__ = [
    "Annotations",
    "Answer",
    "Extent",
    "HEImage",
    "LEAST_SPOTS",
    "Picture",
    "Plan",
    "Rows",
    "SliceGrid",
    "SlideImage",
    "TARGET_SUM",
    "blank_library",
    "check_dense",
    "check_work",
    "check_digits",
    "check_layer",
    "common_lattice",
    "depth_of_each",
    "frame_of",
    "frame_slices",
    "histology_on",
    "image_of",
    "is_counts",
    "is_labels",
    "is_spatialdata",
    "lattice_as_dict",
    "layer_names",
    "log_normalise",
    "make_pair",
    "library_of",
    "library_of_section",
    "library_sizes",
    "material_places",
    "memory_of",
    "new_store",
    "open_store",
    "overlap",
    "plan",
    "plan_anyway",
    "position_of",
    "profiles",
    "read_slice",
    "rows_of",
    "shared_genes",
    "shared_profiles",
    "section_picture",
    "section_pictures",
    "stream_layers",
    "table_of",
    "tell",
    "write_slices",
]
