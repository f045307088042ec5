"""The whole network on random inputs, by device and precision: symmetries, positions, lower precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from c2sti._types import Lattice
from c2sti.nn.c2sti import C2STiConfig, Network, fresh
from c2sti.nn.inputs import ModelInputs

N_GENES, HEIGHT, WIDTH, N_MAPS = 9, 13, 10, 5
SMALL = {"channels": 4, "histology_channels": 4, "embedding": 4}
CONFIGS = {
    "maps": C2STiConfig(**SMALL),
    "features": C2STiConfig.paper(resnet=False, **SMALL),
    "motion": C2STiConfig.paper(resnet=False, deforms="motion", **SMALL),
}


@pytest.fixture(params=CONFIGS)
def network(request: pytest.FixtureRequest, device: str, dtype: torch.dtype) -> Network:
    """With weights that are not zero anywhere."""
    made, generator = fresh(CONFIGS[request.param], 0), torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made.to(device, dtype)


@pytest.fixture
def inputs(device: str, dtype: torch.dtype) -> ModelInputs:
    generator = torch.Generator().manual_seed(0)

    def maps(*shape: int) -> Tensor:
        return torch.rand(*shape, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)

    panel = tuple(torch.stack([maps(N_GENES) - 0.5, torch.ones(N_GENES, HEIGHT, WIDTH)], dim=1) for _ in range(2))
    graph = torch.rand(N_GENES, N_GENES, generator=generator)
    graph = graph + graph.T + torch.eye(N_GENES)
    scale = 0.5 + torch.rand(N_GENES, generator=generator)
    lattice, images, ends = Lattice((0.0, 0.0), 1.0, (HEIGHT, WIDTH)), (maps(3), maps(3)), (maps(N_MAPS), maps(N_MAPS))
    graph = graph / graph.sum(dim=0)
    made = ModelInputs(
        lattice, (0.0, 1.0), panel, torch.arange(N_GENES), scale, images, (graph + graph.T) / 2, ends, (None, None)
    )
    floats = {name: getattr(made, name).to(dtype) for name in ("propagation", "scale")}
    return replace(made.each(lambda m: m.to(dtype)), **floats).to(device)


def swapped(inputs: ModelInputs) -> ModelInputs:
    turned = {name: getattr(inputs, name)[::-1] for name in ("panel", "images", "ends", "features")}
    return replace(inputs, **turned)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"atol": 1e-5 if dtype == torch.float32 else 1e-12, "rtol": 0}


def test_swapping_the_sections_changes_nothing(network: Network, inputs: ModelInputs, dtype: torch.dtype) -> None:
    with torch.no_grad():
        (one, moved), (other, back) = network(inputs, 0.3), network(swapped(inputs), 0.7)
    assert one.dtype == dtype
    assert moved.displacement.abs().max() > 1e-3
    torch.testing.assert_close(one, other, **tolerance(dtype))
    torch.testing.assert_close(moved.displacement, -back.displacement, **tolerance(dtype))


def test_permuting_the_genes_permutes_the_section(network: Network, inputs: ModelInputs, dtype: torch.dtype) -> None:
    order = torch.randperm(N_GENES, generator=torch.Generator().manual_seed(2)).to(inputs.chosen.device)
    with torch.no_grad():
        (found, moved), (permuted, same) = network(inputs, 0.3), network(inputs.genes(order), 0.3)
    expected = found if network.section is None else found[order]
    torch.testing.assert_close(permuted, expected, **tolerance(dtype))
    torch.testing.assert_close(moved.displacement, same.displacement, **tolerance(dtype))


@pytest.mark.parametrize("network", ["features", "motion"], indirect=True)
def test_every_weight_of_the_paper_has_a_gradient(network: Network, inputs: ModelInputs) -> None:
    found, moved = network(inputs, 0.4)
    (found.square().mean() + moved.displacement.square().mean()).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    unused = {"context"}  # there is no section beyond the pair
    unused |= {
        name for name, _ in network.named_parameters() if name.endswith("offset.bias")
    }  # a shift is a difference
    if network.config.deforms == "motion":
        unused |= {name for name, _ in network.named_parameters() if name.startswith("pool")}
    assert without <= unused


def ready(name: str, device: str) -> tuple[Network, ModelInputs]:
    """An untrained network, and what it looks at."""
    network, generator = fresh(CONFIGS[name], 0).to(device), torch.Generator().manual_seed(0)
    maps = lambda *s: torch.rand(*s, 12, 12, generator=generator).to(device)
    panel = tuple(torch.stack([maps(6) - 0.5, torch.ones(6, 12, 12, device=device)], dim=1) for _ in range(2))
    lattice, ends, images = Lattice((0.0, 0.0), 1.0, (12, 12)), (maps(3), maps(3)), (maps(3), maps(3))
    chosen, scale, graph = (x.to(device) for x in (torch.arange(6), torch.ones(6), torch.eye(6)))
    return network, ModelInputs(lattice, (0.0, 1.0), panel, chosen, scale, images, graph, ends, (None, None))


@pytest.mark.parametrize("name", ["maps", "features"])  # autocast does not reach into the vmap of "motion"
def test_half_precision_is_near(name: str, device: str) -> None:
    network, inputs = ready(name, device)
    with torch.no_grad():
        exact = network(inputs, 0.4)[0]
        with torch.autocast(device, dtype=torch.bfloat16):
            near = network(inputs, 0.4)[0]
    torch.testing.assert_close(near.float(), exact, atol=0.05, rtol=0.05)


def test_it_compiles_as_one_graph(device: str) -> None:
    network, inputs = ready("features", device)
    compiled = torch.compile(network, backend="eager", fullgraph=True)  # inductor: minutes, and 1e-6
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs, 0.4)[0], network(inputs, 0.4)[0], atol=1e-5, rtol=0)
