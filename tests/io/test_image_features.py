from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData

import c2sti
from c2sti._types import Lattice
from c2sti.datasets import phantom
from c2sti.io import HEImage
from c2sti.io._image_features import image_features, optical_density

LATTICE = Lattice((100.0, 100.0), 20.0, (10, 10))
QUIET = {"model": "linear", "show_progress_bar": False}


def image(pixels: np.ndarray, scale: float = 1.0) -> HEImage:
    return HEImage((pixels,), np.diag([scale, scale, 1.0]))


def noise(seed: int = 0, side: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_an_even_image_has_no_spread_and_its_own_density() -> None:
    pixels = np.full((400, 400, 3), (200, 120, 180), dtype=np.uint8)
    (looks,) = image_features([image(pixels)], 20.0, LATTICE)
    found = looks(np.array([[150.0, 200.0], [180.0, 220.0]]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    expected = optical_density(np.array([200, 120, 180]) / 255).sum()
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3)
    np.testing.assert_allclose(found[:, [2, 4, 6]], 0, atol=1e-2)  # spreads of haematoxylin


def test_features_of_a_point_are_the_same_whatever_the_others() -> None:
    (looks,) = image_features([image(noise())], 20.0, LATTICE)
    points = np.random.default_rng(1).uniform(60, 320, (30, 2))
    np.testing.assert_allclose(looks(points)[[5]], looks(points[[5]]), rtol=1e-4, atol=1e-4)


def test_features_follow_the_structures() -> None:
    """Where the picture is even there is no fine structure, and where it is noise there is."""
    pixels = noise()
    pixels[:, :200] = 128
    (looks,) = image_features([image(pixels)], 20.0, LATTICE)
    even, rough = looks(np.array([[120.0, 200.0], [280.0, 200.0]]))
    assert (rough[19:] > even[19:] + 1).all()


def test_beyond_the_image_features_are_missing() -> None:
    (looks,) = image_features([image(noise(side=200))], 20.0, LATTICE)
    found = looks(np.array([[150.0, 150.0], [250.0, 150.0]]))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_images_are_compared_at_the_resolution_of_the_coarsest() -> None:
    fine, coarse = image_features([image(noise(side=800), 2.0), image(noise())], 20.0, LATTICE)
    assert fine.pixels == coarse.pixels == 20


def test_an_encoder_adds_its_features() -> None:
    def encoder(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        return np.broadcast_to(np.float32(7), (2, *shape))

    plain, more = (image_features([image(noise())], 20.0, LATTICE, e)[0] for e in (None, encoder))
    at = np.array([[150.0, 200.0]])
    assert more(at).shape[1] == plain(at).shape[1] + 2
    np.testing.assert_allclose(more(at)[:, -2:], 7)


# ---- images that cannot be those of the missing section


@pytest.fixture(scope="module")
def stained() -> list[AnnData]:
    return phantom(seed=0, size=10, n_genes=30).series([0.0, 150.0, 300.0])


def changed(section: AnnData, scale: float = 1.0, pixels: Any = lambda image: image) -> dict[str, Any]:
    library = next(iter(section.uns["spatial"].values()))
    factors = {**library["scalefactors"], "tissue_hires_scalef": library["scalefactors"]["tissue_hires_scalef"] * scale}
    return {"images": {"hires": pixels(np.asarray(library["images"]["hires"]))}, "scalefactors": factors}


def test_an_image_that_lies_elsewhere_is_refused(stained: list[AnnData]) -> None:
    a, missing, b = stained
    with pytest.raises(ValueError, match=r"target_images\[0\].*lies under .* of the spots.*scale factor"):
        c2sti.tl.interpolate(a, b, target_images=[changed(missing, 30.0)], **QUIET)


def test_an_image_with_glass_where_the_tissue_is_is_refused(stained: list[AnnData]) -> None:
    a, missing, b = stained
    blank = changed(missing, pixels=lambda image: np.full_like(image, 244))
    for target in (blank, changed(missing, 0.3)):
        with pytest.raises(ValueError, match=r"target_images\[0\].*shows tissue at .* glass at the others.*frame"):
            c2sti.tl.interpolate(a, b, target_images=[target], **QUIET)


@pytest.mark.parametrize("other", [lambda x: np.repeat(x[..., 1:2], 3, axis=-1), lambda x: 255 - x])
def test_another_stain_is_warned_of(stained: list[AnnData], other: Any) -> None:
    a, missing, b = stained
    with pytest.warns(UserWarning, match=r"target_images\[0\].*not of the stain of the neighbouring.*Leave it out"):
        c2sti.tl.interpolate(a, b, target_images=[changed(missing, pixels=other)], **QUIET)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_h_and_e_is_taken_without_a_warning(stained: list[AnnData]) -> None:
    a, missing, b = stained
    c2sti.tl.interpolate(a, b, target_images=[changed(missing)], **QUIET)
