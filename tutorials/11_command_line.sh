#!/usr/bin/env bash
# From files of sections to scores, figures and a volume, without a line of Python.
#
#   bash 11_command_line.sh s1.h5ad s2.h5ad s3.h5ad
#
# The sections are given in the order of z: AnnData or SpatialData with raw counts, places in obsm["spatial"] and z in
# obs["z_um"]. Results go into the folder that the script is started in. Every command says on stderr what it does, and
# ends with an error and the fix where a section cannot be used. `c2sti COMMAND --help` has all options.
set -euo pipefail
gene=${GENE:-gene_001} label=${LABEL:-domain} spacing=${SPACING:-50}

# 1. Common coordinates. The table says how well each section fits; below 0.35 it fits no better than unrelated tissue.
c2sti align "$@" -o aligned > align.tsv
sections=(aligned/*)

# 2. Is it to be trusted? Each interior section is held out and interpolated from its neighbours. stderr ends with a
#    verdict; --half-observed adds how near the limit it is, --methods c2sti is the default.
c2sti evaluate "${sections[@]}" --methods gp --plot scores.png > scores.tsv

# 3. Fill the gaps to an even spacing, and carry the labels along.
c2sti series "${sections[@]}" --spacing "$spacing" --obs-keys "$label" -o stack.h5ad

# 4. Which genes are there, and which to believe: the column expected_pcc.
c2sti genes stack.h5ad > genes.tsv

# 5. A figure, and how the result was made, in words for a methods section.
c2sti plot stack.h5ad "$gene" "$label" -o stack.png
c2sti describe stack.h5ad > methods.txt

# 6. On to other tools: counts drawn for the interpolated sections, SpatialData, and a volume for napari.
c2sti sample-counts stack.h5ad -o counts.h5ad
c2sti to-spatialdata stack.h5ad -o stack_sd.zarr
c2sti to-volume stack.h5ad --genes "$gene" -o volume.zarr
