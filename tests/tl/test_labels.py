"""Labels and numbers of the spots in interpolated sections."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import spatialdata as sd
from anndata import AnnData
from spatialdata.models import ShapesModel, TableModel

import c2sti
from c2sti import io
from c2sti._types import Lattice, Prediction
from c2sti.datasets import Phantom
from c2sti.models._registry import METHODS
from c2sti.tl._labels import composed, merge
from tests.conftest import square_array


def interpolate(a: AnnData, b: AnnData, **keywords: object) -> AnnData:
    return c2sti.tl.interpolate(a, b, **{"model": "linear", "show_progress_bar": False, **keywords})


@pytest.fixture
def labelled(pair: tuple[AnnData, AnnData], tissue: Phantom) -> tuple[AnnData, AnnData]:
    """Two sections whose spots know their domain and their counts, one domain and one spot in ten being unknown."""
    for section, z in zip(pair, (0.0, 300.0), strict=True):
        section.obs["domain"] = tissue.domain(section.obsm["spatial"], z)
        section.obs["n_counts"] = np.asarray(section.X.sum(axis=1)).ravel()
        section.uns["domain_colors"] = [f"#00{40 * i:02x}80" for i in range(len(section.obs["domain"].cat.categories))]
    return pair


def test_labels_are_those_of_the_missing_section(labelled: tuple[AnnData, AnnData], tissue: Phantom) -> None:
    out = interpolate(*labelled, n_slices=2, obs_keys=("domain", "n_counts"))
    assert list(out.uns["c2sti"]["obs_keys"]) == ["domain", "n_counts"]
    points = out.obsm["spatial"]
    for name, z in (("c2sti_1", 100.0), ("c2sti_2", 200.0)):
        inside = out.obs[f"{name}_tissue"].to_numpy()
        label, probability = out.obs[f"{name}_domain"], out.obsm[f"{name}_domain"]
        truth = np.asarray(tissue.domain(points, z))
        right = np.asarray(label) == truth
        assert right[inside].mean() > 0.75
        both = inside & out.obs["support"].eq("both").to_numpy()
        copied = [(np.asarray(out.obs[f"{end}_domain"]) == truth)[both].mean() for end in ("slice_a", "slice_b")]
        assert right[both].mean() > np.mean(copied)
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
        assert list(probability.columns) == list(label.cat.categories)
        counts = label[inside].value_counts(sort=False)
        assert (np.abs(counts.to_numpy() - probability[inside].sum().to_numpy()) <= 1).all()
        chosen = probability.to_numpy()[np.arange(out.n_obs), label.cat.codes]
        assert (chosen > 0).all()
        assert (chosen == probability.max(axis=1))[inside].mean() > 0.9
        assert list(out.uns[f"{name}_domain_colors"]) == labelled[0].uns["domain_colors"]
    assert out.obs["c2sti_1_n_counts"].dtype == float
    # the better a label is known, the more often it is right
    sure = out.obsm["c2sti_1_domain"].max(axis=1).to_numpy() > 0.9
    right = np.asarray(out.obs["c2sti_1_domain"]) == np.asarray(tissue.domain(points, 100.0))
    assert right[sure].mean() > right[~sure].mean()


def test_a_measured_section_has_the_label_of_its_nearest_spot(labelled: tuple[AnnData, AnnData]) -> None:
    a, b = labelled
    out = interpolate(a, b, at=a.obsm["spatial"], obs_keys=["domain", "n_counts"])
    inside = out.obs["slice_a_tissue"].to_numpy()
    np.testing.assert_array_equal(out.obs["slice_a_domain"][inside], a.obs["domain"][inside])
    np.testing.assert_allclose(out.obs["slice_a_n_counts"][inside], a.obs["n_counts"][inside])
    outside = ~out.obs["slice_b_tissue"].to_numpy()
    assert outside.any()
    assert out.obs["slice_b_domain"][outside].isna().all()
    assert out.obs["slice_b_n_counts"][outside].isna().all()
    near = out.obs["slice_b_domain"].notna() & (out.obs["slice_b_domain"] == out.obs["slice_a_domain"])
    assert (out.obs["c2sti_1_domain"][near] == out.obs["slice_a_domain"][near]).mean() > 0.85


def test_unknown_labels_are_left_out_and_what_nothing_is_known_of_stays_unknown(
    labelled: tuple[AnnData, AnnData],
) -> None:
    for section in labelled:
        left = section.obsm["spatial"][:, 0] < 900.0
        section.obs.loc[left, "domain"] = np.nan
        section.obs.loc[left, "n_counts"] = np.nan
    out = interpolate(*labelled, obs_keys=("domain", "n_counts"))
    far = out.obsm["spatial"][:, 0] < 900.0 - 200.0
    near = out.obsm["spatial"][:, 0] > 900.0
    assert far.sum() > 5
    for column in (out.obs["c2sti_1_domain"], out.obs["c2sti_1_n_counts"], out.obsm["c2sti_1_domain"].iloc[:, 0]):
        assert column[far].isna().all()
        assert column[near].notna().all()


def test_swapping_the_sections_mirrors_labels(labelled: tuple[AnnData, AnnData]) -> None:
    a, b = labelled
    there = interpolate(a, b, positions=[0.3], obs_keys="domain")
    back = interpolate(b, a, positions=[0.7], obs_keys="domain")
    np.testing.assert_allclose(there.obsm["c2sti_1_domain"], back.obsm["c2sti_1_domain"], atol=1e-6)
    assert (there.obs["c2sti_1_domain"] == back.obs["c2sti_1_domain"]).all()


def test_categories_are_united_in_order_and_colours_completed(labelled: tuple[AnnData, AnnData]) -> None:
    a, b = labelled
    first, second, *_ = a.obs["domain"].cat.categories
    a.obs["domain"] = a.obs["domain"].where(a.obs["domain"] != second).cat.remove_unused_categories()
    b.obs["domain"] = b.obs["domain"].where(b.obs["domain"] != first)
    a.uns["domain_colors"] = a.uns["domain_colors"][1:]
    del b.uns["domain_colors"]
    for section in labelled:
        section.obs["domain"] = section.obs["domain"].cat.rename_categories({first: "T/B", second: "other"})
    with LogOf() as said:
        out = interpolate(a, b, obs_keys="domain")
    assert "only slice_a has 'T/B'" in said.text
    assert "only slice_b has 'other'" in said.text
    assert list(out.obs["c2sti_1_domain"].cat.categories)[:2] == ["T/B", "other"]
    assert list(out.obs["slice_a_domain"].cat.categories) == list(out.obs["c2sti_1_domain"].cat.categories)
    colours = list(out.uns["slice_b_domain_colors"])
    assert colours[0] == a.uns["domain_colors"][0]
    assert len(set(colours)) == len(colours)
    assert list(out.obsm["c2sti_1_domain"].columns)[:2] == ["T|B", "other"]


class LogOf:
    """What scanpy's log says meanwhile."""

    text = ""

    def __enter__(self) -> LogOf:
        self._verbosity, self._file = sc.settings.verbosity, sc.settings.logfile
        self._said = StringIO()
        sc.settings.logfile = self._said
        sc.settings.verbosity = "info"
        return self

    def __exit__(self, *_: object) -> None:
        self.text = self._said.getvalue()
        sc.settings.verbosity, sc.settings.logfile = self._verbosity, self._file


def test_a_rare_label_that_is_likeliest_nowhere_survives() -> None:
    """Cells of a type that makes up 3 % everywhere: the most probable label of each bin would have none of them."""
    rng = np.random.default_rng(0)
    sections = []
    for _ in range(2):
        section = AnnData(np.ones((30**2, 3), dtype=np.float32) * 0.5, obsm={"spatial": square_array(30)})
        section.obs["type"] = pd.Categorical(rng.choice(["A", "B", "rare"], p=[0.6, 0.37, 0.03], size=30**2))
        sections.append(section)
    out = interpolate(*sections, obs_keys="type")
    share = out.obs["c2sti_1_type"].value_counts(normalize=True)
    expected = out.obsm["c2sti_1_type"].mean()
    np.testing.assert_allclose(share[expected.index], expected, atol=1.1 / out.n_obs)
    assert share["rare"] > 0.02
    assert (out.obsm["c2sti_1_type"]["rare"][out.obs["c2sti_1_type"] == "rare"] > expected["rare"]).all()
    again = interpolate(*sections, obs_keys="type")
    assert (again.obs["c2sti_1_type"] == out.obs["c2sti_1_type"]).all()


@pytest.mark.parametrize("n_labels", [1, 2, 7])
def test_labels_have_the_counts_that_their_probabilities_sum_to(n_labels: int) -> None:
    rng = np.random.default_rng(n_labels)
    given = rng.dirichlet(np.linspace(0.1, 1, n_labels), size=500)
    alike = np.full((100, n_labels), 1 / n_labels)  # nothing tells these rows apart
    for probabilities in (given, alike, np.vstack([given, alike])):
        counts = np.bincount(composed(probabilities), minlength=n_labels)
        assert counts.sum() == len(probabilities)
        assert (np.abs(counts - probabilities.sum(axis=0)) < 1).all()
    sure = np.eye(n_labels)[rng.integers(0, n_labels, 50)]
    np.testing.assert_array_equal(composed(sure), sure.argmax(axis=1))
    assert composed(np.empty((0, n_labels))).shape == (0,)


def test_lists_of_labels_are_merged_in_their_order() -> None:
    assert merge(["L1", "L3"], ["L1", "L2", "L3", "L4"]) == ["L1", "L2", "L3", "L4"]
    assert merge(["L2"], ["L1", "L2"]) == ["L1", "L2"]
    assert merge(["a", "b"], []) == ["a", "b"]


def test_labels_survive_writing_and_stacking(labelled: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    for section in labelled:
        section.obs["domain"] = section.obs["domain"].cat.rename_categories(lambda label: f"{label}/x")
    out = interpolate(*labelled, obs_keys=("domain", "n_counts"))
    out.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(back.obsm["c2sti_1_domain"], out.obsm["c2sti_1_domain"])
    stack = c2sti.tl.to_slices(back)
    for name in ("slice_a", "c2sti_1", "slice_b"):
        rows, inside = (stack.obs["section"] == name).to_numpy(), out.obs[f"{name}_tissue"].to_numpy()
        for key in ("domain", "n_counts"):
            np.testing.assert_array_equal(stack.obs[key][rows].to_numpy(), out.obs[f"{name}_{key}"][inside].to_numpy())
    made = stack.obs["inserted"].to_numpy()
    inside = out.obs["c2sti_1_tissue"].to_numpy()
    np.testing.assert_array_equal(stack.obsm["domain"][made], out.obsm["c2sti_1_domain"][inside])
    assert set(np.unique(stack.obsm["domain"][~made])) == {0.0, 1.0}
    assert list(stack.uns["domain_colors"]) == labelled[0].uns["domain_colors"]


def test_cells_and_spatialdata_tables_have_labels_too(tissue: Phantom) -> None:
    sections = tissue.series([0.0, 200.0], layout="cells", image=False)
    containers = []
    for section, z in zip(sections, (0.0, 200.0), strict=True):
        section.obs["type"] = np.asarray(tissue.domain(section.obsm["spatial"], z)).astype(str)  # no categories yet
        section.obs["sure"] = np.arange(section.n_obs) % 2 == 0
        shapes = ShapesModel.parse(section.obsm["spatial"][:, :2], geometry=0, radius=5.0)
        section.obs["region"] = pd.Categorical(["cells"] * section.n_obs)
        section.obs["instance"] = shapes.index.to_numpy()
        table = TableModel.parse(section, region="cells", region_key="region", instance_key="instance")
        containers.append(sd.SpatialData(shapes={"cells": shapes}, tables={"table": table}))
    out = interpolate(*containers, obs_keys=("type", "sure"), genes=sections[0].var_names[:3])
    inside = out.obs["c2sti_1_tissue"].to_numpy()
    truth = np.asarray(tissue.domain(out.obsm["spatial"], 100.0)).astype(str)
    assert (np.asarray(out.obs["c2sti_1_type"])[inside] == truth[inside]).mean() > 0.8
    assert abs(np.nanmean(out.obs["c2sti_1_sure"]) - 0.5) < 0.05


def test_labels_move_with_the_tissue() -> None:
    """A stripe that walks four bins to the right is half-way in the middle, where a method says that it moves."""
    side, far = 20, 4.0
    xy = square_array(side)
    sections = []
    for left in (5.0, 5.0 + far):
        section = AnnData(np.ones((side**2, 3), dtype=np.float32) * 0.5, obsm={"spatial": xy})
        stripe = (xy[:, 0] >= left) & (xy[:, 0] < left + 4)
        section.obs["part"] = pd.Categorical(np.where(stripe, "stripe", "rest"), categories=["rest", "stripe"])
        sections.append(section)

    def moving(pair, at, positions, **keywords) -> Prediction:
        answer = METHODS["linear"](pair, at, positions, **keywords)
        motion = np.zeros((2, *pair.lattice.shape))
        motion[0] = far
        fields = [-2 * p * (1 - p) * motion for p in positions]
        return Prediction(answer.slices, {"displacement": np.stack(fields)})

    for p in (0.25, 0.5, 0.75):
        out = interpolate(*sections, positions=[p], model=moving, obs_keys="part")
        x = out.obsm["spatial"][:, 0]
        found = out.obs["c2sti_1_part"].eq("stripe").to_numpy()
        expected = (x >= 5 + far * p) & (x < 9 + far * p)
        clear = (x > 4) & (x < 16)
        np.testing.assert_array_equal(found[clear], expected[clear])


def test_a_field_of_wider_bins_covers_the_same_area() -> None:
    lattice = Lattice((10.0, 20.0), 2.0, (3, 6))
    fine = np.broadcast_to(np.arange(6.0), (2, 3, 6)).copy()
    wide = fine.reshape(2, 3, 3, 2).mean(axis=3)[:, ::2]
    points = np.array([[13.0, 22.0], [17.0, 22.0]])  # between the centres of fine bins: where the wide ones' are
    for p in (0.25, 0.5):
        for left, right in zip(
            io.source_places(points, fine, lattice, p), io.source_places(points, wide, lattice, p), strict=True
        ):
            np.testing.assert_allclose(left, right)
    in_a, in_b = io.source_places(points, None, lattice, 0.5)
    np.testing.assert_array_equal(in_a, points)
    np.testing.assert_array_equal(in_b, points)


def all_unknown(a: AnnData, b: AnnData) -> None:
    for section in (a, b):
        section.obs["domain"] = pd.Categorical([None] * section.n_obs, categories=["x"])


def numbers_there(a: AnnData, b: AnnData) -> None:
    b.obs["domain"] = 1.5


def dates(a: AnnData, b: AnnData) -> None:
    b.obs["domain"] = pd.Timestamp("2026-01-01")


def missing(a: AnnData, b: AnnData) -> None:
    del a.obs["domain"], b.obs["domain"]


BAD = {
    "missing": (
        missing,
        "domain",
        KeyError,
        r"slice_a has no obs\['domain'\] .*it has \['n_counts', 'z_um'\]",
    ),
    "all NaN": (all_unknown, "domain", ValueError, r"obs\['domain'\] of slice_a holds nothing but NaN"),
    "kinds": (numbers_there, "domain", ValueError, "holds labels in slice_a and numbers in slice_b; make both"),
    "dates": (dates, "domain", ValueError, "slice_b holds Timestamp; labels"),
    "taken": (
        lambda a, b: [s.obs.insert(0, "tissue", 1.0) for s in (a, b)],
        "tissue",
        ValueError,
        "results use that name.*rename it",
    ),
    "folder": (lambda a, b: [s.obs.insert(0, "a/b", 1.0) for s in (a, b)], "a/b", ValueError, "files cannot hold it"),
}


@pytest.mark.parametrize("case", BAD)
def test_annotations_that_cannot_be_carried_are_named(labelled: tuple[AnnData, AnnData], case: str) -> None:
    spoil, key, error, message = BAD[case]
    spoil: Callable[[AnnData, AnnData], object]
    spoil(*labelled)
    with pytest.raises(error, match=message):
        interpolate(*labelled, obs_keys=key)
