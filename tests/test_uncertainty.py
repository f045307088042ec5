"""How uncertain an interpolated value is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy.stats import spearmanr

import c2sti
from c2sti._types import InterpolatedSection, Prediction, Section, SlicePair
from c2sti.io._factors import confidence
from c2sti.models._registry import METHODS
from c2sti.models.naive import gain
from c2sti.ops import local_noise, partition
from c2sti.uncertainty import BESIDE, PART, Calibration, _detail, ask
from c2sti.uncertainty._detail import Detail, between_genes
from tests.conftest import array_pair, square_array

SIDE = 6
AT = square_array(SIDE)


def told(name: str, pair: SlicePair, positions: list[float]) -> list[np.ndarray]:
    _, spread = ask(METHODS[name], pair, AT, positions, device="cpu", seed=0)
    return [spread.std(i) for i in range(len(positions))]


@pytest.mark.parametrize("name", ["copy", "linear"])
def test_two_even_sections_leave_only_what_they_disagree_on(name: str) -> None:
    pair = array_pair(np.full((SIDE**2, 2), 1.0), np.tile([1.0, 4.0], (SIDE**2, 1)), SIDE)
    middle, quarter = told(name, pair, [0.5, 0.25])
    np.testing.assert_allclose(middle, np.tile([0, 1.5], (SIDE**2, 1)), atol=5e-3)  # 3 · √(½ · ½)
    np.testing.assert_allclose(quarter, np.tile([0, 3 * 0.1875**0.5], (SIDE**2, 1)), atol=5e-3)


def test_noise_of_a_spot_is_what_it_does_not_share_with_the_next() -> None:
    xy = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0]])
    values = np.array([[1.0, 5], [3, 5], [7, 5], [7, 6]])
    for form in (values, sp.csr_array(values)):
        np.testing.assert_allclose(local_noise(xy, form), [(4 + 4) / 4 / 2, (1 + 1) / 4 / 2])


def test_a_mean_of_four_spots_keeps_a_quarter_of_their_noise() -> None:
    np.testing.assert_allclose(gain(sp.csr_array([[0.25] * 4, [1.0, 0, 0, 0]])), [0.25, 1.0])


@pytest.mark.parametrize("name", ["linear", "lowrank", "gp"])
def test_noise_comes_through_less_the_more_spots_speak(name: str) -> None:
    rng = np.random.default_rng(0)
    pair = array_pair(*(1 + rng.random((SIDE**2, 30)) for _ in range(2)), SIDE)
    copied, smooth = told("copy", pair, [0.5])[0], told(name, pair, [0.5])[0]
    assert 0 < smooth.mean() < 0.6 * copied.mean()


def test_beyond_the_spots_less_is_known() -> None:
    wave = np.sin(AT[:, :1] / 2) + 2 + np.zeros((1, 8))
    rng = np.random.default_rng(1)
    pair = array_pair(*(wave + 0.2 * rng.standard_normal(wave.shape) for _ in range(2)), SIDE)
    at = np.array([[2.5, 2.5], [-4.0, -4.0]])
    _, spread = ask(METHODS["gp"], pair, at, [0.5], device="cpu", seed=0)
    inside, outside = spread.std(0)
    assert (outside > 1.5 * inside).all()


def test_a_method_that_tells_no_noise_has_what_the_sides_disagree_on() -> None:
    def sides(pair: SlicePair, at: np.ndarray, positions: list[float], **_: object) -> Prediction:
        one = np.ones((len(at), 1))
        return Prediction(tuple(InterpolatedSection(p * one, np.ones((1, 3)), np.ones(3)) for p in positions))

    pair = array_pair(np.ones((SIDE**2, 3)), np.ones((SIDE**2, 3)), SIDE)
    _, spread = ask(sides, pair, AT, [0.5], device="cpu", seed=0)
    np.testing.assert_allclose(spread.std(0), 0.5 * 0.998, rtol=1e-5)
    np.testing.assert_allclose(spread.std(0, slice(0, 2)), 0.5 * 0.998, rtol=1e-5)
    assert spread.subset(np.array([2])).std(0).shape == (SIDE**2, 1)


def test_what_only_one_section_covers_is_less_sure() -> None:
    """One gene 1 in a and 4 in b: d² = 9 where both are seen, and nothing else is in doubt."""
    pair = array_pair(np.full((SIDE**2, 2), 1.0), np.tile([1.0, 4.0], (SIDE**2, 1)), SIDE)
    covered = np.ones((2, SIDE**2), dtype=bool)
    covered[1, :6] = False  # only in a
    covered[0, 6:9] = False  # only in b
    covered[:, 9] = False  # in neither
    _, spread = ask(METHODS["copy"], pair, AT, [0.25, 0.5], device="cpu", seed=0, covered=covered)
    for i, p in enumerate((0.25, 0.5)):
        shares = np.repeat([p, 1 - p, 1, p * (1 - p)], [6, 3, 1, SIDE**2 - 10])
        expected = np.sqrt(9 * shares)[:, None] * [0, 1]
        np.testing.assert_allclose(spread.std(i), expected, atol=1e-5)
        np.testing.assert_allclose(spread.std(i, slice(1, 2), slice(4, 20)), expected[4:20, 1:], atol=1e-5)
        np.testing.assert_allclose(spread.subset(np.array([1])).std(i), expected[:, 1:], atol=1e-5)
    nowhere = ask(METHODS["copy"], pair, AT, [0.5], device="cpu", seed=0, covered=np.zeros_like(covered))[1]
    np.testing.assert_allclose(nowhere.std(0), np.tile([0, 1.5], (SIDE**2, 1)), atol=1e-5)  # d² is not known


@pytest.mark.parametrize("model", ["copy", "linear", "lowrank", "gp"])
def test_a_half_that_one_section_lacks_is_less_sure(model: str, pair: tuple[AnnData, AnnData]) -> None:
    a, b = pair
    x = b.obsm["spatial"][:, 0]
    half = b[x < np.median(x)].copy()
    del half.uns["spatial"]
    out = c2sti.tl.interpolate(a, half, n_slices=3, model=model, std=True, show_progress_bar=False)
    alone = (out.obs["support"] == "a").to_numpy()
    both = (out.obs["support"] == "both").to_numpy()
    assert alone.sum() > 30
    for name in ("c2sti_1", "c2sti_2", "c2sti_3"):
        variance = np.square(out.layers[f"{name}_std"], dtype=np.float64)
        assert variance[alone].mean() > 1.02 * variance[both].mean()


def test_confidence_is_the_share_that_is_not_doubt() -> None:
    values = np.array([[0.0, 1], [2, 1], [9, 9]])  # variance over the first two bins: 1 + 0
    std = np.array([[0.0, 0], [1, 0], [3, 0]])
    inside = np.array([True, True, False])
    for chunks in ((3, 2), (2, 1)):
        made, doubt = da.from_array(values, chunks=chunks), da.from_array(std, chunks=chunks)
        np.testing.assert_allclose(confidence(made, doubt, inside), [1, 0.5, 0.1])
        assert (confidence(da.ones((3, 2)), doubt, inside).compute() == 0).all()
        assert (confidence(made, doubt, np.zeros(3, bool)).compute() == 0).all()


def small() -> c2sti.C2STi:
    return c2sti.C2STi(c2sti.C2STiConfig(channels=4, n_components=10, n_splits=1))


@pytest.fixture(scope="module")
def results(_series: list[AnnData]) -> tuple[AnnData, AnnData]:
    """The same sections with and without their spread."""
    a, b = _series[0], _series[2]
    model = small()
    return tuple(
        c2sti.tl.interpolate(a, b, n_slices=2, model=model, std=std, show_progress_bar=False) for std in (True, False)
    )


def test_a_result_says_how_sure_it_is(results: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    sure, plain = results
    assert list(plain.layers) == ["slice_a", "c2sti_1", "c2sti_2", "slice_b"]
    assert [name for name in sure.layers if name not in plain.layers] == ["c2sti_1_std", "c2sti_2_std"]
    for name in ("c2sti_1", "c2sti_2"):
        np.testing.assert_allclose(sure.layers[name], plain.layers[name], atol=1e-5)
        std = sure.layers[f"{name}_std"]
        assert std.dtype == np.float32
        assert (std > 0).all()
        inside = sure.obs[f"{name}_tissue"].to_numpy()
        known, doubt = sure.layers[name][inside].var(axis=0).sum(), np.square(std).sum(axis=1)
        np.testing.assert_allclose(sure.obs[f"{name}_confidence"], known / (known + doubt), rtol=1e-4)
    # Notes that have an entry a section have not got more of them.
    assert [np.shape(r.uns["c2sti"]["notes"]["displacement"])[0] for r in results] == [2, 2]
    sure.write_h5ad(tmp_path / "sure.h5ad")
    again = ad.read_h5ad(tmp_path / "sure.h5ad")
    np.testing.assert_array_equal(again.layers["c2sti_2_std"], sure.layers["c2sti_2_std"])
    np.testing.assert_array_equal(again.obs["c2sti_1_confidence"], sure.obs["c2sti_1_confidence"])


def test_a_stack_keeps_it(results: tuple[AnnData, AnnData]) -> None:
    sure, plain = results
    stack = c2sti.tl.to_slices(sure)
    assert "std" not in c2sti.tl.to_slices(plain).layers
    for name in ("c2sti_1", "c2sti_2"):
        inside = sure.obs[f"{name}_tissue"].to_numpy()
        here = (stack.obs["section"] == name).to_numpy()
        np.testing.assert_array_equal(stack.layers["std"][here], sure.layers[f"{name}_std"][inside])
        np.testing.assert_array_equal(stack.obs["confidence"][here], sure.obs[f"{name}_confidence"][inside])
    measured = ~stack.obs["inserted"].to_numpy()
    assert np.isnan(stack.layers["std"][measured]).all()
    assert stack.obs["confidence"][measured].isna().all()


def test_a_gene_is_as_sure_whichever_others_are_asked_for(
    results: tuple[AnnData, AnnData], _series: list[AnnData]
) -> None:
    genes = list(results[0].var_names[[7, 3]])
    few = c2sti.tl.interpolate(
        _series[0], _series[2], n_slices=2, model=small(), std=True, genes=genes, show_progress_bar=False
    )
    np.testing.assert_allclose(few.layers["c2sti_1_std"], results[0][:, genes].layers["c2sti_1_std"], rtol=1e-4)


# ---- where one section could not be measured


def half_blind() -> np.ndarray:
    """(2, M): the first row of the array beyond the window of a, the last one beyond that of b."""
    blind = np.zeros((2, SIDE**2), dtype=bool)
    blind[0, :SIDE], blind[1, -SIDE:] = True, True
    return blind


def bent(pair: SlicePair, at: np.ndarray, positions: list[float], **_: object) -> Prediction:
    """A method whose sections have offsets that lie on no line, and weights of single precision."""
    basis = np.array([[1.0, 2.0, 0.0]], dtype=np.float32)
    offsets = [np.array([1 + p, 2 - p**2, 3 + p**3]) for p in positions]
    columns = [at[:, :1].astype(np.float32) * np.float32(p) for p in positions]
    return Prediction(tuple(InterpolatedSection(w, basis, o) for w, o in zip(columns, offsets, strict=True)))


@pytest.mark.parametrize("name", ["copy", "linear", "lowrank", "gp", "bent"])
def test_what_one_section_could_not_see_is_as_right_beside_the_other(name: str) -> None:
    rng = np.random.default_rng(3)
    pair = array_pair(*(i + 2 + rng.random((SIDE**2, 12)) for i in range(2)), SIDE)
    method, blind, how = METHODS.get(name, bent), half_blind(), {"device": "cpu", "seed": 0}
    whole = method(pair, AT, [0.25, 0.5, BESIDE, 1 - BESIDE], **how, progress=lambda share: None)
    quarter, middle, beside_a, beside_b = (section.expression() for section in whole.slices)
    prediction, spread = ask(method, pair, AT, [0.25, 0.5], std=False, blind=blind, **how)
    assert spread is None
    for section, own in zip(prediction.slices, (quarter, middle), strict=True):
        expected = np.where(blind[0][:, None], beside_b, np.where(blind[1][:, None], beside_a, own))
        np.testing.assert_allclose(section.expression(), expected, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(section.block(slice(3, 9), slice(0, 2)), expected[3:9, :2], rtol=2e-6, atol=2e-6)
    assert prediction.slices[0].basis is prediction.slices[1].basis
    back, _ = ask(method, replace(pair, a=pair.b, b=pair.a), AT, [0.5], std=False, blind=blind[::-1], **how)
    if name in ("linear", "lowrank"):
        np.testing.assert_allclose(back.slices[0].expression(), prediction.slices[1].expression(), atol=1e-5)


def test_where_both_see_a_method_is_asked_for_nothing_more() -> None:
    asked: list[list[float]] = []

    def listening(pair: SlicePair, at: np.ndarray, positions: list[float], **how: object) -> Prediction:
        asked.append(positions)
        return METHODS["gp"](pair, at, positions, **how)

    pair = array_pair(*(np.random.default_rng(i).random((SIDE**2, 5)) for i in range(2)), SIDE)
    how = {"device": "cpu", "seed": 0}
    nowhere = np.zeros((2, SIDE**2), dtype=bool)
    for blind in (None, nowhere):
        prediction, spread = ask(listening, pair, AT, [0.4], std=False, blind=blind, **how)
        assert spread is None
        plain = METHODS["gp"](pair, AT, [0.4], **how)
        np.testing.assert_allclose(prediction.slices[0].expression(), plain.slices[0].expression(), atol=1e-5)
    assert asked == [[0.4], [0.4]]
    sure, _ = ask(METHODS["gp"], pair, AT, [0.4], blind=nowhere, **how)
    np.testing.assert_allclose(sure.slices[0].expression(), plain.slices[0].expression(), atol=1e-6)
    ask(listening, pair, AT, [0.4], std=False, blind=half_blind(), **how)
    assert asked[-1] == [0.4, BESIDE, 1 - BESIDE]


def test_what_one_section_could_not_see_is_as_unsure_as_what_it_does_not_cover() -> None:
    """One gene 1 in a and 4 in b: d² = 9 where both are seen, and nothing else is in doubt."""
    pair = array_pair(np.full((SIDE**2, 2), 1.0), np.tile([1.0, 4.0], (SIDE**2, 1)), SIDE)
    blind = half_blind()
    _, spread = ask(METHODS["copy"], pair, AT, [0.25], device="cpu", seed=0, blind=blind, covered=~blind)
    shares = np.repeat([0.75, 0.1875, 0.25], [SIDE, SIDE**2 - 2 * SIDE, SIDE])
    np.testing.assert_allclose(spread.std(0), np.sqrt(9 * shares)[:, None] * [0, 1], atol=1e-5)


def test_noise_where_one_section_is_blind_is_that_right_beside_the_other() -> None:
    rng = np.random.default_rng(1)
    pair = array_pair(*(1 + (1 + 3 * i) * rng.random((SIDE**2, 30)) for i in range(2)), SIDE)
    blind = half_blind()
    for name in ("linear", "lowrank", "gp"):
        ends = METHODS[name](pair, AT, [0.5, BESIDE, 1 - BESIDE], device="cpu", seed=0).noise
        prediction, _ = ask(METHODS[name], pair, AT, [0.5], device="cpu", seed=0, std=False, blind=blind)
        (middle,), (own, beside_a, beside_b) = prediction.noise.weights(), ends.weights()
        np.testing.assert_allclose(middle[:SIDE], beside_b[:SIDE])
        np.testing.assert_allclose(middle[-SIDE:], beside_a[-SIDE:])
        np.testing.assert_allclose(middle[SIDE:-SIDE], own[SIDE:-SIDE])
        np.testing.assert_allclose(prediction.noise.basis(), ends.basis())


def test_intervals_are_calibrated_on_spots_that_the_other_section_could_see() -> None:
    """Beyond the window of b the spots of a are 9, elsewhere all are 1: nothing that was seen lies off by 8."""
    values = np.ones((SIDE**2, 1))
    values[-SIDE:] = 9
    pair = array_pair(values, np.ones((SIDE**2, 1)), SIDE)
    blind = half_blind()
    how = {"device": "cpu", "seed": 0, "intervals": True}
    _, spread = ask(METHODS["copy"], pair, AT, [0.5], blind=blind, seen=(~blind[1], ~blind[0]), **how)
    assert [section.weights.shape[0] for section in spread.calibration.predicted] == [SIDE**2 - SIDE] * 2
    np.testing.assert_array_equal(spread.calibration.intervals(0.98).bounds(np.ones((1, 1))), [[[1]], [[1]]])
    _, careless = ask(METHODS["copy"], pair, AT, [0.5], **how)
    assert careless.calibration.intervals(0.98).bounds(np.ones((1, 1)))[1] == 9
    never = np.zeros(SIDE**2, dtype=bool)
    _, all_of_them = ask(METHODS["copy"], pair, AT, [0.5], seen=(never, never), **how)
    np.testing.assert_array_equal(all_of_them.calibration.measured[0].toarray(), values)


# ---- intervals for a measured value


def given(predicted: np.ndarray, measured: np.ndarray) -> Calibration:
    """What two sections of equally many spots say of each other."""
    offset = np.zeros(predicted.shape[1])
    halves = np.array_split(np.arange(len(predicted)), 2)
    sections = [InterpolatedSection(predicted[half], np.eye(predicted.shape[1]), offset) for half in halves]
    return Calibration((sections[0], sections[1]), tuple(sp.csr_array(measured[half]) for half in halves))


def test_ends_are_quantiles_of_what_was_measured() -> None:
    # 99 spots, 1 to 99, of which 90 % are to lie inside: 5 to 95. Of the second gene half are zero.
    measured = np.column_stack([np.arange(1.0, 100), np.maximum(np.arange(1.0, 100) - 50, 0)])
    calibration = given(np.ones((99, 2)), np.random.default_rng(0).permutation(measured))
    found = calibration.intervals(0.9).bounds(np.array([[0.5, 2.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(found[:, 0], [[5, 0], [95, 40]])
    np.testing.assert_array_equal(found[:, 1], found[:, 0])  # one part only: whatever is predicted
    np.testing.assert_array_equal(calibration.intervals(0.5).bounds(np.ones((1, 1)), slice(1, 2)), [[[0]], [[0]]])
    second = calibration.subset(np.array([1])).intervals(0.9)
    np.testing.assert_array_equal(second.bounds(np.ones((1, 1))), [[[0]], [[40]]])


def test_ends_are_linear_between_parts() -> None:
    predicted = np.repeat([1.0, 3.0], PART)[:, None]
    measured = np.repeat([10.0, 30.0], PART)[:, None]
    found = given(predicted, measured).intervals(0.9).bounds(np.array([[0.0], [1.0], [1.5], [3.0], [9.0]]))
    np.testing.assert_allclose(found[0].ravel(), [10, 10, 15, 30, 30])
    np.testing.assert_allclose(found[1], found[0])


def test_intervals_hold_as_many_values_as_they_say() -> None:
    """Noise whose size grows with the mean and differs between genes, in sections that have the same tissue."""
    rng = np.random.default_rng(2)
    side = 20
    at = square_array(side)
    mean = 4 + np.sin(at[:, :1] / 4) * np.linspace(0.5, 2, 40)
    scale = np.linspace(0.1, 0.5, 40) * mean
    sections = [mean + scale * rng.standard_normal(mean.shape) for _ in range(3)]
    pair = array_pair(*(np.maximum(s, 0) for s in sections[:2]), side)
    prediction, spread = ask(METHODS["linear"], pair, at, [0.5], device="cpu", seed=0, intervals=True)
    assert spread.calibration is not None
    for level in (0.5, 0.9):
        lower, upper = spread.calibration.intervals(level).bounds(prediction.slices[0].expression())
        inside = (lower <= sections[2]) & (sections[2] <= upper)
        assert inside.mean() == pytest.approx(level, abs=0.03)
        assert inside.mean(axis=0).min() > level - 0.12  # gene by gene, of 400 spots


def test_a_result_has_intervals_where_they_are_asked_for(_series: list[AnnData], tmp_path: Path) -> None:
    a, b = _series[0], _series[2]
    out = c2sti.tl.interpolate(a, b, model="linear", interval=0.9, show_progress_bar=False)
    assert [name for name in out.layers if name not in ("slice_a", "slice_b")] == [
        "c2sti_1",
        "c2sti_1_lower",
        "c2sti_1_upper",
    ]
    lower, upper = out.layers["c2sti_1_lower"], out.layers["c2sti_1_upper"]
    assert lower.dtype == np.float32
    assert (lower >= 0).all()
    assert (lower <= upper).all()
    assert out.uns["c2sti"]["parameters"]["interval"] == 0.9
    narrow = c2sti.tl.interpolate(a, b, model="linear", interval=0.5, show_progress_bar=False)
    assert (narrow.layers["c2sti_1_upper"] <= upper).all()
    out.write_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "out.h5ad").layers["c2sti_1_upper"], upper)
    stack = c2sti.tl.to_slices(out)
    here, inside = (stack.obs["section"] == "c2sti_1").to_numpy(), out.obs["c2sti_1_tissue"].to_numpy()
    np.testing.assert_array_equal(stack.layers["upper"][here], upper[inside])
    assert "std" not in stack.layers
    with pytest.raises(ValueError, match="interval = 90 must lie between 0 and 1"):
        c2sti.tl.interpolate(a, b, interval=90)


def test_a_series_says_the_same_as_a_pair(_series: list[AnnData]) -> None:
    pair = [_series[0], _series[2]]
    how = {"model": "linear", "std": True, "interval": 0.9, "show_progress_bar": False}
    stack = c2sti.tl.interpolate_series(pair, at_z=[0.0, 150.0], **how)
    alone = c2sti.tl.to_slices(c2sti.tl.interpolate(*pair, **how))
    inserted, expected = stack[stack.obs["inserted"]], alone[alone.obs["inserted"]]
    for layer in ("std", "lower", "upper"):
        np.testing.assert_allclose(inserted.layers[layer], expected.layers[layer], rtol=1e-5, atol=1e-6)
        assert np.isnan(stack[~stack.obs["inserted"]].layers[layer]).all()
    np.testing.assert_allclose(inserted.obs["confidence"], expected.obs["confidence"], rtol=1e-5)
    with pytest.raises(ValueError, match="interval = 0 must lie"):
        c2sti.tl.interpolate_series(pair, at_z=[150.0], interval=0)


def test_evaluate_reports_how_many_values_lie_inside(_series: list[AnnData]) -> None:
    table = c2sti.tl.evaluate(_series, methods=["linear"], intervals=(0.5, 0.9), show_progress_bar=False)
    assert table["coverage_90"].between(0.8, 0.98).all()
    assert (table["coverage_50"] < table["coverage_90"]).all()
    with pytest.raises(ValueError, match=r"intervals = \[0.5, 90.0\]; a list of levels between 0 and 1"):
        c2sti.tl.evaluate(_series, intervals=(0.5, 90))


# ---- detail: what a spot has beyond the spots around it


def counted(counts: np.ndarray, side: int, library: float = 1e4) -> Section:
    """A section of one square array whose spots all have the same library size."""
    values = sp.csr_array(np.log1p(1e4 / library * counts).astype(np.float32))
    sizes = np.full(len(counts), library)
    return Section(square_array(side), values, 0.0, counts=sp.csr_array(counts.astype(np.float32)), library=sizes)


def detail(section: Section) -> Detail:
    found = Detail.of(section, np.arange(section.expression.shape[1], dtype=np.uint64), 1.0, seed=0)
    assert found is not None
    return found


def test_detail_of_a_chequerboard() -> None:
    """Beside a spot lie four of the other kind with weight w, and across four of its own with weight v.

    With w and v as shares, 4 w + 4 v = 1, it lies 2 d · 4 w off its surroundings where kinds are 2 d apart; what is
    special to single spots would be seen with a gain of 1 + 4 w² + 4 v².
    """
    side = 12
    x, y = square_array(side).T.astype(int)
    kinds = np.where((x + y) % 2, 4e4, 1e4)  # so many that the two parts of a split are alike
    found = detail(counted(np.column_stack([kinds, np.full(side**2, 1e4)]), side, library=1e5))
    w, v = np.exp(-0.5 / 0.6**2), np.exp(-1 / 0.6**2)
    w, v = w / (4 * w + 4 * v), v / (4 * w + 4 * v)
    apart = np.log1p(4e3) - np.log1p(1e3)
    inside = ((x > 0) & (x < side - 1) & (y > 0) & (y < side - 1))[np.lexsort(square_array(side).T)]
    expected = (apart * 4 * w) ** 2 / (1 + 4 * w**2 + 4 * v**2)
    np.testing.assert_allclose(found.spots[inside], expected / 2, rtol=0.07)  # mean of a gene with it and one without
    assert abs(found.genes[1]) < 1e-3 * found.genes[0]


def test_detail_has_no_count_noise() -> None:
    """Poisson counts around one mean scatter widely, and differ from their surroundings by nothing else."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (900, 40))
    found = detail(counted(counts, 30))
    scatter = np.log1p(counts).var(axis=0).mean()
    assert abs(found.genes.mean()) < 0.05 * scatter
    assert np.abs(found.genes).max() < 4 * np.sqrt(found.errors.max())
    assert (between_genes([found, found], 40) < 0.1 * scatter).all()


def test_detail_tells_genes_and_places_apart() -> None:
    """Spots of the right half differ from one to the next, in the second half of the genes more."""
    rng, side = np.random.default_rng(1), 24
    right = square_array(side)[:, 0] >= side / 2
    size = np.where(right, 0.6, 0.1)[:, None] * np.repeat([0.5, 1.0], 60)
    rates = 8 * np.exp(size * rng.standard_normal((side**2, 120)))
    found = detail(counted(rng.poisson(rates), side))
    places = found.places(square_array(side))
    assert places[right].mean() > 3 * places[~right].mean()
    assert places.mean() == pytest.approx(1, abs=0.05)
    genes = between_genes([found], 120)
    assert genes[60:].mean() > 2.5 * genes[:60].mean()
    assert genes[60:].min() > genes[:60].max()


def test_genes_are_drawn_to_their_mean_as_far_as_they_are_uncertain() -> None:
    def of(errors: float) -> Detail:
        return Detail(np.array([0.0, 1.0, 2.0]), np.full(3, errors), AT, np.ones(len(AT)), 1.0)

    np.testing.assert_allclose(between_genes([of(0)], 3), [0, 1, 2])
    np.testing.assert_allclose(between_genes([of(1 / 3)], 3), [0.5, 1, 1.5])  # 2/3 in all, of which half is error
    np.testing.assert_allclose(between_genes([of(10)], 3), [1, 1, 1])
    np.testing.assert_allclose(between_genes([of(2 / 3), of(2 / 3)], 3), [0.5, 1, 1.5])
    np.testing.assert_array_equal(between_genes([], 2), [0, 0])


def counted_pair(side: int = 10, n_genes: int = 30) -> SlicePair:
    rng = np.random.default_rng(5)
    sections = [counted(rng.poisson(5 * np.exp(0.5 * rng.standard_normal((side**2, n_genes)))), side) for _ in range(2)]
    pair = array_pair(*(s.expression.toarray() for s in sections), side)
    return replace(pair, a=sections[0], b=replace(sections[1], position=1.0))


@pytest.mark.parametrize("name", ["copy", "linear", "lowrank", "gp"])
def test_detail_comes_on_top_whichever_section_is_first(name: str) -> None:
    pair, at, how = counted_pair(), square_array(10), {"device": "cpu", "seed": 0}
    uncounted = replace(pair, a=replace(pair.a, counts=None), b=replace(pair.b, counts=None))
    back = replace(pair, a=replace(pair.b, position=0.0), b=replace(pair.a, position=1.0))
    asked = ((pair, 0.25), (uncounted, 0.25), (back, 0.75))
    std, without, swapped = (ask(METHODS[name], p, at, [q], **how)[1].std(0) for p, q in asked)
    found = [detail(section) for section in (pair.a, pair.b)]
    places = 0.75 * found[0].places(at) + 0.25 * found[1].places(at)
    np.testing.assert_allclose(std**2 - without**2, places[:, None] * between_genes(found, 30), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(swapped, std, rtol=1e-3)


def test_detail_does_not_depend_on_the_order_of_spots_nor_on_other_points() -> None:
    pair, order = counted_pair(), np.random.default_rng(2).permutation(100)
    a = pair.a
    other = replace(a.each(lambda x: x[order]), xy=a.xy[order], library=a.library[order])
    np.testing.assert_allclose(detail(other).genes, detail(a).genes, rtol=1e-6)
    at = square_array(10)
    np.testing.assert_allclose(detail(other).places(at), detail(a).places(at), rtol=1e-6)
    np.testing.assert_allclose(detail(a).places(at[7:9]), detail(a).places(at)[7:9])


def test_detail_of_large_sections_is_that_of_some_spots(monkeypatch: pytest.MonkeyPatch) -> None:
    section = counted_pair(30).a
    whole = detail(section)
    monkeypatch.setattr(_detail, "MOST_SPOTS", 450)
    some = detail(section)
    assert len(some.spots) == 450
    assert some.width == pytest.approx(whole.width * 2**0.5)
    assert some.genes.mean() == pytest.approx(whole.genes.mean(), rel=0.15)


def test_detail_needs_counts_of_some_spots() -> None:
    section = counted_pair().a
    keys = np.arange(30, dtype=np.uint64)
    assert Detail.of(replace(section, counts=None), keys, 1.0, 0) is None
    assert Detail.of(replace(section, library=np.zeros(100)), keys, 1.0, 0) is None


@pytest.mark.parametrize("model", ["linear", "c2sti"])
def test_std_says_for_which_genes_and_where_the_error_is_large(model: str) -> None:
    """Rank correlation of std² with the squared error of the expectation, over groups of genes in parts of the tissue.

    The expectation is a mean over sections of the same tissue whose counts were drawn again.
    """
    tissue = c2sti.datasets.phantom(seed=3, size=16, n_genes=120)
    a, held_out, b = tissue.series([0.0, 250.0, 500.0], library_size=2000, image=False)
    at = held_out.obsm["spatial"]
    out = c2sti.tl.interpolate(a, b, at=at, model=model, std=True, show_progress_bar=False)
    again = [tissue.section(250.0, library_size=2000, image=False, seed=i).X.toarray() for i in range(30)]
    expectation = np.mean([np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)) for x in again], axis=0)
    error, variance = np.square(out.layers["c2sti_1"] - expectation), np.square(out.layers["c2sti_1_std"])
    genes = np.array_split(np.argsort(out.layers["c2sti_1"].mean(axis=0)), 10)
    parts = partition(at, 8)
    groups = [np.ix_(parts == part, some) for part in range(parts.max() + 1) for some in genes]
    found = [[x[group].mean() for group in groups] for x in (error, variance)]
    assert spearmanr(*found)[0] > 0.6
    assert spearmanr(error.mean(axis=0), variance.mean(axis=0))[0] > 0.6
    assert spearmanr(error.mean(axis=1), variance.mean(axis=1))[0] > 0.2
