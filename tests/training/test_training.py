from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from c2sti import io, training
from c2sti._types import Lattice
from c2sti.datasets import phantom
from c2sti.models.c2sti import C2STi, C2STiConfig, fresh
from c2sti.nn.losses import endpoint_error
from c2sti.ops import sample
from c2sti.training import Case, Example, TrainConfig, elastic, make_examples, train, turn
from c2sti.training._train import OBJECTIVES, _augmented, _loss

NETWORK = C2STiConfig(n_components=8, n_splits=0, panel=16, channels=4, histology_channels=4)
QUICK = TrainConfig(steps=6, genes=20, panel=12, save_every=2)


def known() -> Case:
    """A held-out section of a simulated tissue, whose motion is known, and so is expression without noise."""
    tissue = phantom(seed=2, size=8, n_genes=30)
    a, hidden, b = tissue.series([0.0, 150.0, 300.0])
    pair, genes = io.make_pair(io.read_slice(a), io.read_slice(b))
    xy = hidden.obsm["spatial"]
    truth = sp.csr_array(tissue.expression(xy, 150.0)[:, hidden.var_names.get_indexer(genes)])

    def motion(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tissue.displacement(points, 150.0, 0.0), tissue.displacement(points, 150.0, 300.0)

    return Case(pair, xy, 0.5, truth, "made", motion)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Two held-out sections of a simulated tissue."""
    tissue = phantom(seed=2, size=8, n_genes=30)
    grids = [io.read_slice(s) for s in tissue.series([0.0, 150.0, 300.0, 450.0])]
    made = []
    for i in (1, 2):
        pair, genes = io.make_pair(grids[i - 1], grids[i + 1])
        xy, values, library = io.profiles(grids[i], pair.lattice, genes)
        made.append(Case(pair, xy, 0.5, io.log_normalise(values, library), f"section {i}"))
    return make_examples(made, NETWORK)


def run(examples: list[Example], **settings: object) -> C2STi:
    return train(examples, config=NETWORK, how=QUICK, show_progress_bar=False, **settings)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("deforms", ["maps", "features", "motion"])
def test_a_step_makes_nothing_on_another_device(examples: list[Example], deforms: str, objective: str) -> None:
    """On torch's device without values, which refuses what lies on the processor, as a GPU would."""
    config = dataclasses.replace(NETWORK, deforms=deforms)
    example, how = examples[0].to("meta"), dataclasses.replace(QUICK, objective=objective)
    loss = _loss(how, fresh(config, 0).to("meta"), *_augmented(how, example, np.random.default_rng(0)))
    loss.backward()
    assert loss.device == torch.device("meta")


def test_training_lowers_the_loss(examples: list[Example]) -> None:
    losses = []
    how = TrainConfig(steps=40, genes=30, panel=16, learning_rate=5e-3)
    train(examples, config=NETWORK, how=how, show_progress_bar=False, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_same_seed_same_weights_another_seed_others(examples: list[Example]) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = run(examples).fingerprint()
    assert (torch.random.get_rng_state() == before).all()
    assert run(examples).fingerprint() == first
    other = train(examples, config=NETWORK, how=dataclasses.replace(QUICK, seed=1), show_progress_bar=False)
    assert other.fingerprint() != first


def test_a_killed_run_goes_on_as_if_nothing_had_happened(examples: list[Example], tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        run(examples, folder=tmp_path, progress=kill)
    steps: list[int] = []
    resumed = run(examples, folder=tmp_path, progress=lambda step, loss: steps.append(step))
    assert steps == [4, 5]
    assert resumed.fingerprint() == run(examples).fingerprint()


def test_a_folder_of_another_run_is_refused(examples: list[Example], tmp_path: Path) -> None:
    run(examples, folder=tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        train(
            examples, config=NETWORK, how=dataclasses.replace(QUICK, seed=1), folder=tmp_path, show_progress_bar=False
        )


def test_a_loss_that_is_not_a_number_stops_and_names_the_example(examples: list[Example], tmp_path: Path) -> None:
    broken = dataclasses.replace(examples[1], truth=torch.full_like(examples[1].truth, float("nan")))
    with pytest.raises(FloatingPointError, match="section 2.*last good state"):
        run([examples[0], broken], folder=tmp_path)


def test_nothing_to_train_on() -> None:
    with pytest.raises(ValueError, match="three sections or more"):
        train([])


def test_training_goes_on_from_a_model(examples: list[Example]) -> None:
    first = run(examples)
    second = train(examples, start=first, how=QUICK, show_progress_bar=False)
    assert second.config == first.config
    assert second.fingerprint() != first.fingerprint()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turned_tissue_is_the_same_at_its_spots(examples: list[Example], quarters: int, mirrored: bool) -> None:
    example = examples[0]
    turned = turn(example, quarters, mirrored)
    one = sample(example.inputs.ends[0], example.inputs.lattice, example.points)
    other = sample(turned.inputs.ends[0], turned.inputs.lattice, turned.points)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_motion_turns_with_the_tissue() -> None:
    """Material found at x + motion in the section stays the same material when all is turned."""
    (example,) = make_examples([known()], NETWORK)
    assert example.motion is not None
    shape = example.inputs.lattice.shape
    rows, columns = np.indices(shape).reshape(2, -1)
    there = torch.as_tensor(np.stack([columns, rows])) + example.motion[:2].reshape(2, -1)
    turned = turn(example, 1, True)
    # x is mirrored, then each quarter takes (x, y) to (y, W - 1 - x).
    mirrored = torch.stack([shape[1] - 1 - there[0], there[1]])
    expected = torch.stack([mirrored[1], shape[1] - 1 - mirrored[0]])
    new_x, new_y = rows, shape[1] - 1 - (shape[1] - 1 - columns)
    assert turned.motion is not None
    found = torch.as_tensor(np.stack([new_x, new_y])) + turned.motion[:2, new_y, new_x]
    torch.testing.assert_close(found, expected, equal_nan=True, check_dtype=False)


def test_known_motion_is_learnt() -> None:
    examples = make_examples([known()], NETWORK)
    errors = []
    how = TrainConfig(steps=50, genes=30, panel=16, learning_rate=2e-2, motion=1.0, smooth=0.0)
    trained = train(examples, config=NETWORK, how=how, show_progress_bar=False)
    for network in (C2STi(NETWORK).network, trained.network):
        with torch.no_grad():
            deformation = network(examples[0].inputs, 0.5)[1]
        errors.append(float(endpoint_error(deformation.shifts, examples[0].motion)))
    assert errors[1] < 0.9 * errors[0]


def test_elastic_moves_are_where_the_tissue_went() -> None:
    case = dataclasses.replace(known(), motion=None)
    moved = elastic(case, seed=0)
    assert moved.motion is not None
    to_a, to_b = moved.motion(case.pair.a.xy)
    np.testing.assert_allclose(case.pair.a.xy + to_a, moved.pair.a.xy)
    np.testing.assert_allclose(to_a, -to_b)  # halfway, both go as far
    assert 0.3 < np.sqrt((to_a**2).sum(axis=1).mean()) / case.pair.spacing < 1.4
    assert (moved.points == case.points).all()
    # Where the tissue went, the image shows what it showed.
    lattice = case.pair.lattice
    middle = lattice.centres[[lattice.shape[0] // 2 * lattice.shape[1] + lattice.shape[1] // 2]]
    before = case.pair.a.histology[:, *lattice_index(lattice, middle)]
    after = moved.pair.a.histology[:, *lattice_index(lattice, middle + moved.motion(middle)[0])]
    assert np.abs(before - after).max() < 0.15


def lattice_index(lattice: Lattice, points: np.ndarray) -> tuple[int, int]:
    return tuple(int(i) for i in np.unravel_index(lattice.bins(points)[0], lattice.shape))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="scores, paper, squares"):
        TrainConfig(objective="vgg")
    with pytest.raises(ValueError, match="steps = 0"):
        TrainConfig(steps=0)
    with pytest.raises(ValueError, match="genes = 0 must be a whole number of at least 1"):
        TrainConfig(genes=0)


def test_training_says_what_to_install(examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r'training needs accelerate: pip install "c2sti\[train\]"'):
        run(examples)


TWO = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from tests.training import test_training as t
model = t.run(t.examples.__wrapped__())
import torch.distributed as dist
assert dist.get_world_size() == 2
prints = [None, None]
dist.all_gather_object(prints, model.fingerprint())
assert prints[0] == prints[1], prints
if dist.get_rank() == 0:
    print("both", prints[0])
dist.destroy_process_group()
"""


def test_two_processes_learn_one_model(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    root = str(Path(training.__file__).parents[2])
    done = subprocess.run(
        [*command, str(script), root], capture_output=True, text=True, check=False, timeout=240, cwd=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "both" in done.stdout


# ---- the paper's schedule, validation, and its network


def test_the_schedule_of_the_paper(examples: list[Example]) -> None:
    how = TrainConfig.paper()
    assert (how.epochs, how.batch, how.weight_decay, how.objective) == (40, 6, 1e-4, "paper")
    assert how.for_examples(852).steps == 40 * 852 // 6
    assert (how.rate(0), how.for_examples(852).rate(5680)) == (1e-4, pytest.approx(1e-6))
    short = TrainConfig.paper(steps=10)
    assert short.epochs is None
    assert [short.rate(step) for step in (0, 5, 10)] == pytest.approx([1e-4, (1e-4 + 1e-6) / 2, 1e-6])
    model = train(examples, config=NETWORK, how=TrainConfig.paper(epochs=3, batch=2), show_progress_bar=False)
    assert len(model.card["history"]["loss"]) == 3
    assert model.fingerprint() != C2STi(NETWORK).fingerprint()


def test_weights_are_those_of_the_lowest_loss_of_validation(examples: list[Example]) -> None:
    how = TrainConfig(
        steps=30, genes=20, panel=12, learning_rate=0.3, validate_every=3, patience=2
    )  # too fast to learn
    model = train(examples[:1], validation=examples[1:], config=NETWORK, how=how, show_progress_bar=False)
    history = model.card["history"]
    values = [value for _, value in history["validation"]]
    assert len(history["loss"]) == history["validation"][-1][0] < 30  # it was stopped early
    assert values.index(min(values)) == len(values) - 3
    again = dataclasses.replace(how, steps=30, patience=None)
    stopped = train(examples[:1], validation=examples[1:], config=NETWORK, how=again, show_progress_bar=False)
    assert min(v for _, v in stopped.card["history"]["validation"]) <= min(values)
    with pytest.raises(ValueError, match="no section is left for validation"):
        train(examples, validation=[], config=NETWORK, how=QUICK)


def test_a_stopped_run_keeps_its_history_and_its_best_weights(examples: list[Example], tmp_path: Path) -> None:
    how = dataclasses.replace(QUICK, validate_every=2)
    whole = train(examples[:1], validation=examples[1:], config=NETWORK, how=how, show_progress_bar=False)

    def stop(step: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    settings = {"validation": examples[1:], "config": NETWORK, "how": how, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        train(examples[:1], progress=stop, show_progress_bar=False, **settings)
    continued = train(examples[:1], show_progress_bar=False, **settings)
    assert continued.card["history"] == whole.card["history"]
    assert continued.fingerprint() == whole.fingerprint()


@pytest.mark.parametrize("deforms", ["features", "motion"])
@pytest.mark.parametrize("start", ["zero", "baseline"])
def test_the_network_of_the_paper_learns(deforms: str, start: str) -> None:
    small = {"n_components": 8, "n_splits": 0, "panel": 12, "channels": 4, "histology_channels": 4, "resnet": False}
    config = C2STiConfig.paper(**small, deforms=deforms, start=start)
    examples = make_examples([known()], config)
    how = TrainConfig(steps=25, panel=12, batch=1, learning_rate=1e-2, motion=0.0)
    losses = train(examples, config=config, how=how, show_progress_bar=False).card["history"]["loss"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.02
