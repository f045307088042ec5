"""Alignment into views and backed files: done, or refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import c2sti
from tests.io.test_images import SIDE, section


def test_a_view_of_a_backed_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    both = ad.concat({"s0": section(0), "s1": section(1)}, label="sample", index_unique="-")
    both.write_h5ad(tmp_path / "all.h5ad")
    backed = ad.read_h5ad(tmp_path / "all.h5ad", backed="r")
    a, part = section(0), backed[backed.obs["sample"] == "s1"]
    with pytest.raises(ValueError, match=r"moving is a view of a backed AnnData.*\.to_memory\(\)"):
        c2sti.pp.align(a, part)
    with pytest.raises(ValueError, match=r"slices\[1\] is a view of a backed AnnData"):
        c2sti.pp.align_series([a, part])
    assert "spatial_aligned" not in a.obsm and "alignment" not in a.uns
    written = c2sti.pp.align(a, part, copy=True)
    assert written is not None and "spatial_aligned" in written[1].obsm and not written[1].isbacked
    np.testing.assert_array_equal(written[1].X.toarray(), both[both.obs["sample"] == "s1"].X.toarray())
    backed.file.close()


def test_a_backed_file_is_written_into_in_memory_and_copied(tmp_path: Path) -> None:
    section(1).write_h5ad(tmp_path / "b.h5ad")
    backed = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    written = c2sti.pp.align(section(0), backed, copy=True)
    assert written is not None and not written[1].isbacked and "spatial_aligned" not in backed.obsm
    c2sti.pp.align(section(0), backed)
    assert "spatial_aligned" in backed.obsm
    backed.file.close()


def test_views_in_memory_are_aligned_in_place_without_a_word() -> None:
    both = ad.concat({"s0": section(0), "s1": section(1)}, label="sample", index_unique="-")
    one, two = (both[both.obs["sample"] == name] for name in ("s0", "s1"))
    c2sti.pp.align(one, two)
    assert one.obsm["spatial_aligned"].shape == two.obsm["spatial_aligned"].shape == (SIDE**2, 2)
    assert "spatial_aligned" not in both.obsm


def test_a_gene_graph_of_a_backed_file(tmp_path: Path) -> None:
    """Of the whole file it is written in memory; of a view it is refused, or goes into a copy."""
    whole = section(0)
    whole.X = whole.X.astype(np.float32).log1p() if hasattr(whole.X, "log1p") else np.log1p(whole.X)
    whole.write_h5ad(tmp_path / "a.h5ad")
    c2sti.tl.coexpression(whole)
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    c2sti.tl.coexpression(backed)
    np.testing.assert_allclose(backed.varp["coexpression"].toarray(), whole.varp["coexpression"].toarray(), atol=1e-6)
    part = backed[: SIDE * 3]
    with pytest.raises(ValueError, match=r"adata is a view of a backed AnnData.*\.to_memory\(\)"):
        c2sti.tl.coexpression(part)
    copy = c2sti.tl.coexpression(part, copy=True)
    assert copy is not None and "coexpression" in copy.varp and not copy.isbacked
    backed.file.close()
