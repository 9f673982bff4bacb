"""The model as a torch module: traced, exported, transformed, moved, differentiated."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cedar_cases import planted
from laplex.cedar import CEDAR, CedarModule
from laplex.cedar.basis import DenseBasis
from laplex.cedar.topk import top_k, traceable_top_k
from strategies import quick

D = 12
DATA = planted(300, D, 3, seed=3, condition=3.0).data


def module_of(kind: str, dtype: Any = np.float32) -> CedarModule:
    iterations = {"orthogonal": 20, "invertible": 5}[kind]
    model = CEDAR(3, basis=kind, random_state=0, max_iter=iterations)
    return model.fit(DATA.astype(dtype)).torch_module()


class Network(nn.Module):
    """Everything that the module does, one after the other."""

    def __init__(self, cedar: CedarModule) -> None:
        super().__init__()
        self.cedar = cedar

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moved = self.cedar.intervene(z, {3: 1.5, 1: lambda c: 2 * c})
        return self.cedar.encode(z), self.cedar(z), moved


@pytest.fixture(scope="module", params=["orthogonal", "invertible", "identity"])
def network(request: pytest.FixtureRequest) -> Network:
    if request.param == "identity":  # equal numbers are equal coordinates: ties
        return Network(CedarModule(DenseBasis(torch.eye(D)), torch.zeros(D), 3)).eval()
    return Network(module_of(request.param)).eval()


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(1))


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    # Sums of 12 products of order 10 in float32, in another order.
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-4)


# --- the k largest --------------------------------------------------------------------------------


@quick
@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=0, max_size=5),
    weights=st.none() | st.lists(st.integers(1, 3), min_size=6, max_size=6),
    k=st.integers(1, 7),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_traceable_and_quick_selection_agree_also_in_ties(
    values: list[list[int]], weights: list[int] | None, k: int, dtype: torch.dtype
) -> None:
    # Small integers have many ties, and their products are exact in every type.
    tensor = torch.tensor(values, dtype=torch.float64).reshape(-1, 6)
    scale = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    kept = traceable_top_k(tensor.to(dtype), k, None if scale is None else scale.to(dtype))
    assert torch.equal(kept.double(), top_k(tensor, k, scale))
    assert torch.equal(traceable_top_k(tensor[:, None], k, scale)[:, 0], kept.double())


def test_nan_is_kept_for_the_network_to_see() -> None:
    values = torch.tensor([[1.0, float("nan"), 3.0, 2.0]])
    assert traceable_top_k(values, 2).isnan().any()


# --- tracing --------------------------------------------------------------------------------------


def test_compiles_to_one_graph(network: Network) -> None:
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=True)
    for z in (rows(2, 5), rows(7, 3), torch.ones(4, 6, D)):
        assert_same(compiled(z), network(z))
    compiled(rows(2, 5).requires_grad_())[1].sum().backward()


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_free_sizes(network: Network, strict: bool) -> None:
    free = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")},)
    program = torch.export.export(network, (rows(2, 5),), dynamic_shapes=free, strict=strict)
    for z in (rows(2, 5), rows(9, 4), torch.ones(3, 2, D)):
        assert_same(program.module()(z), network(z))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch about itself
def test_onnx_file_computes_the_same(network: Network) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    free = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")},)
    program = torch.onnx.export(
        network, (rows(2, 5),), dynamo=True, dynamic_shapes=free, verbose=False
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for z in (rows(2, 5), rows(9, 4), torch.ones(3, 2, D)):
        found = session.run(None, {session.get_inputs()[0].name: z.numpy()})
        assert_same(tuple(map(torch.from_numpy, found)), network(z))


def test_meta_and_fake_tensors_have_the_shapes(network: Network) -> None:
    shapes = [(2, 5, D)] * 3
    on_meta = copy.deepcopy(network).to("meta")(rows(2, 5).to("meta"))
    assert [tuple(one.shape) for one in on_meta] == shapes
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert [tuple(one.shape) for one in network(mode.from_tensor(rows(2, 5)))] == shapes


# --- types, shapes, copies ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_follows_to_another_type(network: Network, dtype: torch.dtype) -> None:
    moved = copy.deepcopy(network).to(dtype)
    z = rows(4).to(dtype)
    codes, restored, changed = moved(z)
    assert codes.dtype == restored.dtype == changed.dtype == dtype
    assert int((codes != 0).sum(-1).max()) <= 3
    # |z| < 4 in each of 12 columns, so a sum is off by less than 12 * 4 * eps.
    assert (changed - network(z.float())[2]).abs().max() < 200 * torch.finfo(dtype).eps + 1e-4


def test_short_embeddings_meet_a_float32_module(network: Network) -> None:
    codes, _, moved = network(rows(4).bfloat16())
    assert codes.dtype == torch.float32
    assert moved.dtype == torch.bfloat16  # it goes on into the network


def test_autocast(network: Network) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes, restored, moved = network(rows(2, 5).requires_grad_())
        restored.square().sum().backward()
    assert int((codes != 0).sum(-1).max()) <= 3
    assert moved.dtype == torch.float32


@pytest.mark.parametrize("shape", [(), (4,), (0,), (2, 0, 3), (2, 3, 1, 2)])
def test_any_leading_dimensions(network: Network, shape: tuple[int, ...]) -> None:
    z = rows(*shape)
    flat = network(z.reshape(-1, D))
    assert_same(network(z), tuple(one.reshape(z.shape) for one in flat))


def test_copies_and_states(network: Network) -> None:
    module = network.cedar
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(rows(3)), module(rows(3)))
    assert not module.training
    with pytest.raises(TypeError, match="k must be an integer"):
        module.encode(rows(2), k=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"codes: expected shape \[\.\.\., 12\], got \[2, 5\]"):
        module.decode(torch.zeros(2, 5))


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["orthogonal", "invertible"])
def test_first_and_second_derivatives(kind: str) -> None:
    module = module_of(kind, np.float64)
    z = rows(2).double().requires_grad_()
    factors = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    functions: list[Callable[..., Tensor]] = [
        lambda z, f: module.encode(z).square() * f[:, None],
        lambda z, f: module.decode(z).square() * f[:, None],
        lambda z, f: module.intervene(z, {1: lambda c: c**2, 4: f}).square(),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (z, factors), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, (z, factors))


def test_function_transforms(network: Network) -> None:
    z = rows(2, 5)
    assert_same(torch.func.vmap(torch.func.vmap(network))(z), network(z))
    each = torch.func.vmap(lambda one, value: network.cedar.intervene(one, {2: value}))
    values = torch.arange(5.0)
    assert torch.allclose(each(z[0], values), network.cedar.intervene(z[0], {2: values}))
    back, forth = (one(network)(z[0, 0]) for one in (torch.func.jacrev, torch.func.jacfwd))
    assert_same(back, forth)
    _, tangents = torch.func.jvp(network, (z[0, 0],), (z[0, 1],))
    assert_same(tangents, tuple(one @ z[0, 1] for one in back))
