"""The one boundary between containers and arrays.

`read_slice` turns an AnnData or SpatialData into a `SliceGrid`, `make_pair` lays two of them (and their context) on a
common lattice as the arrays that interpolators take, and `frame_slices` with `add_layers` turns what they give back
into an AnnData, with `write_store` into a store on disk. No other file knows where a container keeps anything.
"""

from c2sti.io._anndata import (
    N_EDGES,
    MeasuredPair,
    add_layers,
    add_values,
    frame_slices,
    graphs_of,
    held_graph,
    lattice_as_dict,
    warn_of_view,
)
from c2sti.io._annotations import Annotations, is_labels
from c2sti.io._factors import Layers, StackPart, confidence, without_factors
from c2sti.io._genes import level, on_shared_genes, shared_genes, shared_profiles, values_of
from c2sti.io._histology import HEImage, histology_on
from c2sti.io._libraries import image_of
from c2sti.io._memory import is_dense, memory_of, n_tasks, said
from c2sti.io._places import LEAST_SPOTS, check_writable, copied, is_spatialdata
from c2sti.io._rasterize import (
    Rows,
    common_lattice,
    library_sizes,
    make_pair,
    make_sections,
    on_bins,
    overlap,
    profiles,
    rows_of,
    section_of,
    spots_at,
)
from c2sti.io._read import (
    Container,
    SliceGrid,
    Source,
    check_layer,
    is_counts,
    log_normalise,
    read_places,
    read_slice,
    shared_var,
)
from c2sti.io._sections import (
    Key,
    Windows,
    check_unit,
    depth_of_each,
    pair_sources,
    position_of,
    sources,
    window_for_each,
    with_distinct_z,
)
from c2sti.io._spatialdata import frame_of, table_of
from c2sti.io._store import check_digits, completed, new_store, read_zarr, with_layers, write_stack, write_store
from c2sti.io._virtual_histology import library_of_sections, section_image, section_images, source_places
from c2sti.io._window import window_of
