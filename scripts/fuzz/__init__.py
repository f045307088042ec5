"""Give c2sti odd sections and damaged files, and count what comes of it: ``python -m scripts.fuzz --help``.

Where things are: `pairs` draws two sections and how to insert between them, `containers` hands them over (arrays and
sparse formats, backed, dask, zarr, SpatialData), `promises` says what every result keeps, `relations` what may not make
a difference, `uses` what can be done with a result, `files` damages what lies on disk, `driver` runs and counts.
"""
