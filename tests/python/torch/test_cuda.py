"""The torch operators on a GPU: what the CPU gives, and what only a GPU has.

Skipped without a device, unless LAPLEX_REQUIRE_GPU=1. With LAPLEX_EMULATED_CUDA=1 and a core built
for it, the same tests run on the kernels' emulation; see emulated_cuda.py.
"""

from __future__ import annotations

import gc
import os
import threading

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import laplex
from laplex import _core
from laplex.torch import cuda as cuda_execution
from torch_cases import FORMS, dense_matrix

EMULATED = os.environ.get("LAPLEX_EMULATED_CUDA") == "1"
HAS_GPU = _core.has_cuda and not EMULATED and torch.cuda.is_available()
DEVICE = "cpu" if EMULATED else "cuda"

pytestmark = pytest.mark.skipif(
    not (EMULATED or HAS_GPU or os.environ.get("LAPLEX_REQUIRE_GPU") == "1"),
    reason="no GPU, or a build without CUDA",
)
emulated_only = pytest.mark.skipif(not EMULATED, reason="feigns a capture")
gpu_only = pytest.mark.skipif(EMULATED, reason="needs a GPU")


def draw(
    form: str, n: int, m: int, dtype: torch.dtype, heads: tuple[int, ...] = ()
) -> dict[str, Tensor | bool | None]:
    """Arguments of `matvec` on the device, all with gradients."""
    oscillates, phased, real_part = FORMS[form]
    generator = torch.Generator().manual_seed(n + 7 * m)

    def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        x = torch.rand(shape, generator=generator, dtype=torch.float64)
        return x.to(dtype).to(DEVICE).requires_grad_()

    return {
        "targets": random(*heads, n),
        "sources": random(*heads, m),
        "lengthscale": random(*heads, dtype=torch.float64),
        "frequency": random(*heads, dtype=torch.float64) if oscillates else 0.0,
        "target_phase": random(*heads, n) if phased else None,
        "source_phase": random(*heads, m) if phased else None,
        "real_part": real_part,
    }


def dense(arguments: dict) -> Tensor:
    frequency = arguments["frequency"]
    wide = {
        k: v.double() if isinstance(v, Tensor) else v
        for k, v in arguments.items()
        if k != "frequency"
    }
    return dense_matrix(
        **wide, frequency=frequency.double() if isinstance(frequency, Tensor) else None
    )


def gradients_of(result: Tensor, values: Tensor, arguments: dict) -> list[Tensor]:
    inputs = [values, *(v for v in arguments.values() if isinstance(v, Tensor))]
    weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64, device=DEVICE)
    loss = (torch.view_as_real(result).sum(-1) if result.is_complex() else result).double()
    return list(torch.autograd.grad((loss.flatten() * weights).sum(), inputs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("n", "m", "heads", "rows"), [(5, 7, (), 1), (40, 30, (3,), 2), (1500, 900, (), 2)]
)
def test_values_and_gradients_are_those_of_the_dense_matrix(form, dtype, n, m, heads, rows):
    arguments = draw(form, n, m, dtype, heads)
    values = (
        torch.randn(rows, *heads, m, dtype=dtype, generator=torch.Generator().manual_seed(1))
        .to(DEVICE)
        .requires_grad_()
    )
    result = laplex.matvec(values, **arguments)
    matrix = dense(arguments)
    want = (matrix @ values.double().to(matrix.dtype).unsqueeze(-1)).squeeze(-1)
    bound = 1e-6 if dtype is torch.float32 else 1e-13
    scale = matrix.abs() @ values.double().abs().unsqueeze(-1)
    assert result.device.type == DEVICE
    assert ((result - want).abs() <= bound * scale.squeeze(-1)).all()
    found = gradients_of(result, values, arguments)
    for got, expected in zip(found, gradients_of(want, values, arguments), strict=True):
        torch.testing.assert_close(
            got.double(), expected.double(), rtol=300 * bound, atol=300 * bound * m
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52"])
def test_gradcheck_and_gradgradcheck(form, kernel):
    arguments = draw(form, 4, 5, torch.float64)
    names = [k for k, v in arguments.items() if isinstance(v, Tensor)]
    values = torch.randn(5, dtype=torch.float64).to(DEVICE).requires_grad_()

    def function(values, *tensors):
        given = {**arguments, **dict(zip(names, tensors, strict=True))}
        return laplex.matvec(values, **given, kernel=kernel)

    inputs = (values, *(arguments[name] for name in names))
    assert torch.autograd.gradcheck(function, inputs)
    if kernel == "matern12":  # the formula of second derivatives is the same on every device
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", ["matern32", "matern52"])
@pytest.mark.parametrize("sources", [True, False])
def test_gradients_of_matern_kernels_are_those_that_can_be_differentiated(form, kernel, sources):
    arguments = draw(form, 40, 40, torch.float64, (2,))
    grid = (8 * arguments["targets"].detach()).round() / 8  # many ties
    arguments["targets"] = grid.requires_grad_()
    arguments["sources"] = grid.detach().flip(0).requires_grad_() if sources else None
    values = torch.randn(3, 2, 40, dtype=torch.float64).to(DEVICE).requires_grad_()
    inputs = [values, *(each for each in arguments.values() if isinstance(each, Tensor))]
    loss = laplex.matvec(values, **arguments, kernel=kernel).abs().square().sum()
    fused = torch.autograd.grad(loss, inputs, retain_graph=True)
    composite = torch.autograd.grad(loss, inputs, create_graph=True)
    for got, want in zip(fused, composite, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11 * want.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sources", [True, False])
@pytest.mark.parametrize("n", [40, 1500])
def test_one_sided_sums_are_those_of_the_dense_matrix(form, side, sources, n):
    arguments = draw(form, n, n, torch.float64)
    grid = (8 * arguments["targets"].detach()).round() / 8  # many ties
    arguments["targets"] = grid.requires_grad_()
    arguments["sources"] = grid.detach().flip(0).requires_grad_() if sources else None
    values = torch.randn(2, n, dtype=torch.float64).to(DEVICE).requires_grad_()
    results = []
    matrix = dense({**arguments, "side": side})
    for result in (
        laplex.matvec(values, **arguments, side=side),
        (matrix @ values.to(matrix.dtype).unsqueeze(-1)).squeeze(-1),
    ):
        results.append([result, *gradients_of(result, values, arguments)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12 * n)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kernel", "side"), [("matern12", "left"), ("matern32", "right")])
def test_one_sided_sums_have_their_derivatives(form, kernel, side):
    arguments = draw(form, 4, 5, torch.float64)
    names = [k for k, v in arguments.items() if isinstance(v, Tensor)]
    values = torch.randn(5, dtype=torch.float64).to(DEVICE).requires_grad_()

    def function(values, *tensors):
        given = {**arguments, **dict(zip(names, tensors, strict=True))}
        return laplex.matvec(values, **given, kernel=kernel, side=side)

    inputs = (values, *(arguments[name] for name in names))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_the_self_case_sorts_once_and_adds_both_roles():
    x = torch.rand(300, dtype=torch.float64).to(DEVICE).requires_grad_()
    values = torch.randn(300, dtype=torch.float64).to(DEVICE)
    (got,) = torch.autograd.grad(laplex.matvec(values, x, lengthscale=0.1).sum(), x)
    matrix = dense_matrix(x, x, torch.tensor(0.1, dtype=torch.float64, device=DEVICE))
    (want,) = torch.autograd.grad((matrix @ values).sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_values(dtype):
    x = torch.linspace(0, 1, 50).to(DEVICE)
    values = torch.randn(3, 50).to(DEVICE).to(dtype)
    result = laplex.matvec(values, x, lengthscale=0.3)
    assert result.dtype is dtype
    assert torch.equal(result, laplex.matvec(values.float(), x, lengthscale=0.3).to(dtype))


def test_empty_sides():
    x = torch.rand(3).to(DEVICE)
    none = torch.zeros(0).to(DEVICE)
    assert laplex.matvec(none, x, none).tolist() == [0, 0, 0]
    assert laplex.matvec(torch.ones(2, 3).to(DEVICE), none, x).shape == (2, 0)


def test_a_layer_trains_and_moves():
    torch.manual_seed(0)
    layer = laplex.nn.LaplexLinear(20, 10)
    other = laplex.nn.LaplexLinear(20, 10)
    other.load_state_dict(layer.state_dict())
    layer.to(DEVICE)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    inputs = torch.randn(8, 20)
    torch.testing.assert_close(layer(inputs.to(DEVICE)).cpu(), other(inputs))
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = layer(inputs.to(DEVICE)).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    fresh = laplex.nn.LaplexLinear(20, 10).to(DEVICE)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(inputs.to(DEVICE)), layer(inputs.to(DEVICE)))


def test_operators_on_the_device():
    x = torch.rand(30, dtype=torch.float64).to(DEVICE)
    operator = laplex.LaplaceOperator(x, x[:10].clone(), lengthscale=0.2)
    values = torch.randn(10, 3, dtype=torch.float64).to(DEVICE)
    dense = operator.to_dense()
    torch.testing.assert_close(operator @ values, dense @ values)
    torch.testing.assert_close(operator.H @ (dense @ values), dense.mH @ (dense @ values))
    if not EMULATED:
        assert operator.rank() == torch.linalg.matrix_rank(dense)
    plan = operator.to_plan()
    torch.testing.assert_close(
        torch.from_numpy(plan.apply(values.cpu().numpy().T).T), dense.cpu() @ values.cpu()
    )


# --- orders ---------------------------------------------------------------------------------------


@pytest.fixture(params=[cuda_execution.SHORT, -1], ids=["short", "long"])
def orders(request, monkeypatch):
    monkeypatch.setattr(cuda_execution, "SHORT", request.param)
    gc.collect()
    cuda_execution.clear()
    yield lambda: cuda_execution.usage()[0]
    cuda_execution.clear()


def test_a_backward_pass_finds_the_order_of_its_forward_pass(orders, monkeypatch):
    built = []
    build = cuda_execution._build
    monkeypatch.setattr(cuda_execution, "_build", lambda *args: built.append(1) or build(*args))
    x = torch.rand(30).to(DEVICE).requires_grad_()
    y = torch.rand(20).to(DEVICE)
    values = torch.ones(20).to(DEVICE).requires_grad_()
    for _ in range(3):
        laplex.matvec(values, x, y, lengthscale=torch.rand(1).item() + 0.1).sum().backward()
    # A short line is sorted again by each forward pass, which backward passes rely on.
    assert built == ([1, 1, 1] if cuda_execution.SHORT > 0 else [1])
    assert orders() == 1


def test_orders_follow_their_anchors(orders):
    x = torch.rand(30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)

    def check(x=x):
        got = laplex.matvec(values, x, lengthscale=0.1)
        # Results do not depend on whether the order was kept, moved or made anew.
        assert torch.equal(got, laplex.matvec(values, x.clone(), lengthscale=0.1))

    check()
    x += 0.25
    check()
    x.copy_(torch.rand(30))
    check()
    x.data.mul_(-1)  # which PyTorch does not count
    check()
    assert orders() == 1
    del x, check
    gc.collect()
    assert orders() == 0


def test_bits_do_not_depend_on_what_the_anchors_were(orders):
    for seed in range(10):
        torch.manual_seed(seed)
        x = torch.rand(300, dtype=torch.float64).to(DEVICE)
        values = torch.randn(300, dtype=torch.float64).to(DEVICE)
        laplex.matvec(values, x)
        x.mul_(20).floor_()  # still ascending in the old order, and with ties now
        assert torch.equal(laplex.matvec(values, x), laplex.matvec(values, x.clone()))


def test_long_lines_are_compared_and_short_ones_sorted_again(orders, monkeypatch):
    calls = []
    for name in ("_build", "_holds", "_move"):
        real = getattr(cuda_execution, name)
        monkeypatch.setattr(
            cuda_execution,
            name,
            lambda *args, name=name, real=real: calls.append(name) or real(*args),
        )
    x = torch.rand(30).to(DEVICE)
    for _ in range(2):
        laplex.matvec(torch.ones(30).to(DEVICE), x)
    assert calls == ["_build", "_build" if cuda_execution.SHORT > 0 else "_holds"]
    monkeypatch.setattr(cuda_execution, "verify", False)
    calls.clear()
    laplex.matvec(torch.ones(30).to(DEVICE), x)
    assert calls == []


def test_nobody_writes_into_an_order_that_another_call_reads(orders, monkeypatch):
    # As two threads or streams do: the plan of an earlier call is used after a later one.
    plans = []
    plan_of = cuda_execution.plan_of
    monkeypatch.setattr(
        cuda_execution, "plan_of", lambda *args: plans.append(plan_of(*args)) or plans[-1]
    )
    x = torch.rand(30).to(DEVICE)
    laplex.matvec(torch.ones(30).to(DEVICE), x)
    kept = plans[0]._kept[0].clone()
    laplex.matvec(torch.ones(30).to(DEVICE), x)
    assert torch.equal(plans[0]._kept[0], kept)


@pytest.mark.parametrize("orders", [cuda_execution.SHORT], indirect=True)
@pytest.mark.parametrize("name", ["lengthscale", "frequency", "target_phase"])
def test_a_parameter_that_becomes_illegal_is_named(orders, name):
    x = torch.rand(30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)
    good = {"lengthscale": torch.tensor(0.1, dtype=torch.float64)}
    laplex.matvec(values, x, **{k: v.to(DEVICE) for k, v in good.items()})
    bad = torch.full((30,) if name == "target_phase" else (), float("nan"), dtype=torch.float64)
    bad = bad.to(x.dtype) if name == "target_phase" else bad
    laplex.matvec(values, x, **{**{k: v.to(DEVICE) for k, v in good.items()}, name: bad.to(DEVICE)})
    with pytest.raises(ValueError, match=name):
        cuda_execution.check()


def test_inductor_keeps_the_operators_out_of_its_graphs():
    for operator in (torch.ops.laplex.matvec, torch.ops.laplex.matvec_vjp):
        assert torch.Tag.cudagraph_unsafe in operator.default.tags


def test_an_order_that_fails_is_not_kept(orders, monkeypatch):
    monkeypatch.setattr(cuda_execution, "SHORT", -1)
    x = torch.rand(30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)
    before = laplex.matvec(values, x)
    kept = x[3].item()
    x[3] = float("nan")
    with pytest.raises(ValueError, match="targets must be finite, but entry 3 is NaN"):
        laplex.matvec(values, x)
    assert orders() == 0
    x[3] = kept
    assert torch.equal(laplex.matvec(values, x), before)
    with pytest.raises(ValueError, match="lengthscale must be positive and finite, got -1"):
        laplex.matvec(values, x.clone(), lengthscale=-torch.ones((), device=DEVICE))


def test_the_error_of_a_short_line_comes_with_the_next_call():
    cuda_execution.clear()
    x = torch.rand(2, 30).to(DEVICE)
    values = torch.ones(30).to(DEVICE)
    before = laplex.matvec(values, x)
    cuda_execution.check()
    kept = x[1, 3].item()
    x.data[1, 3] = float("nan")  # which PyTorch does not count
    result = laplex.matvec(values, x)
    assert result[1].isnan().all()
    assert torch.equal(result[0], before[0])
    message = "targets must be finite, but in an earlier call entry 3 of head 1 was NaN or infinite"
    if not EMULATED:
        torch.cuda.synchronize()
    with pytest.raises(ValueError, match=message):
        laplex.matvec(values, torch.rand(30).to(DEVICE))
    cuda_execution.check()
    assert cuda_execution.usage()[0] == 0
    assert laplex.matvec(values, x)[1].isnan().all()
    with pytest.raises(ValueError, match=message):
        cuda_execution.check(DEVICE)
    x[1, 3] = kept
    assert torch.equal(laplex.matvec(values, x), before)
    ell = -torch.ones((), dtype=torch.float64, device=DEVICE)
    y = x[0].clone()
    assert laplex.matvec(values, y, lengthscale=ell).isnan().all()
    with pytest.raises(ValueError, match="lengthscale must be positive and finite, but in an ear"):
        cuda_execution.check()
    cuda_execution.check()


class NoNumbersForTheHost(TorchDispatchMode):
    """Refuses what makes the host wait for a number of a tensor on a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
        assert func.overloadpacket.__name__ not in waits, func
        return func(*args, **(kwargs or {}))


@emulated_only
@pytest.mark.parametrize("heads", [1, 3])
def test_a_training_step_does_not_wait(orders, heads):
    is_short = cuda_execution.SHORT > 0
    layer = laplex.nn.LaplexLinear(20, 10, heads=heads)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    inputs = torch.randn(8, 20)

    def waits_of_a_step() -> int:
        before = _core.cuda_emulated_waits()
        with NoNumbersForTheHost():
            layer(inputs).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        return _core.cuda_emulated_waits() - before

    assert [waits_of_a_step() == 0 for _ in range(4)] == [is_short] * 4
    cuda_execution.check()


@emulated_only
@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_do_not_wait(form):
    arguments = draw(form, 30, 20, torch.float64)
    inputs = [v for v in arguments.values() if isinstance(v, Tensor)]
    values = torch.randn(20, dtype=torch.float64).requires_grad_()
    before = _core.cuda_emulated_waits()
    with NoNumbersForTheHost():
        result = laplex.matvec(values, **arguments)
        loss = (torch.view_as_real(result) if result.is_complex() else result).square().sum()
        first = torch.autograd.grad(loss, [values, *inputs], create_graph=True)
        torch.autograd.grad(sum(each.square().sum() for each in first), [values, *inputs])
        laplex.matvec(values, **arguments, kernel="matern32").abs().sum().backward()
    assert _core.cuda_emulated_waits() == before


@emulated_only
def test_nothing_waits_under_the_lock(orders, monkeypatch):
    def free() -> bool:
        taken = []

        def take() -> None:
            taken.append(cuda_execution._lock.acquire(blocking=False))
            if taken[0]:
                cuda_execution._lock.release()

        other = threading.Thread(target=take)  # the lock lets its own thread in
        other.start()
        other.join()
        return taken[0]

    for name in ("_build", "_holds", "_move"):
        real = getattr(cuda_execution, name)

        def spied(*args, real=real):
            assert free()
            return real(*args)

        monkeypatch.setattr(cuda_execution, name, spied)
    x = torch.rand(30)
    for _ in range(2):
        laplex.matvec(torch.ones(30), x)
    x += 1
    laplex.matvec(torch.ones(30), x)


def test_anchors_without_a_version(orders):
    with torch.inference_mode():
        x = torch.rand(30).to(DEVICE)
        values = torch.ones(30).to(DEVICE)
        assert laplex.matvec(values, x).shape == (30,)
    assert orders() == 0


@emulated_only
def test_a_capture_sorts_for_itself_and_leaves_nothing(orders, monkeypatch):
    built = []
    build = cuda_execution._build
    monkeypatch.setattr(cuda_execution, "_build", lambda *args: built.append(1) or build(*args))
    monkeypatch.setattr(cuda_execution, "_reports", {})
    x = torch.rand(30).requires_grad_()
    kept = x[3].item()
    values = torch.ones(30)
    want = laplex.matvec(values, x)
    for capture in (1, 2):
        monkeypatch.setattr(_core, "cuda_capture_id", lambda stream, number=capture: number)
        built.clear()
        loss = laplex.matvec(values, x)
        assert torch.equal(loss, want)
        loss.sum().backward()
        assert built == [1], "the backward pass finds the order of its forward pass"
        with torch.no_grad():
            x += 0.0  # an optimiser's step
        laplex.matvec(values, x)
        assert built == [1, 1], "anchors that moved are sorted again"
        assert orders() == 2, "of the capture, and from before; none of the capture before"
        x.data.add_(0.0)  # which PyTorch does not count
        laplex.matvec(values, x)
        assert built == [1, 1, 1]
    y = torch.rand(5)
    laplex.matvec(values[:5], y)
    assert orders() == 3
    del y
    assert orders() == 2, "nor does it outlive its anchors"
    if cuda_execution.SHORT > 0:  # or there is no report, which is not made in a capture
        with torch.no_grad():
            x[3] = float("nan")
        laplex.matvec(values, x)
        laplex.matvec(values, x)  # nobody can wait in a capture
    monkeypatch.setattr(_core, "cuda_capture_id", lambda stream: None)
    if cuda_execution.SHORT > 0:
        with torch.no_grad():
            x[3] = kept
        with pytest.raises(ValueError, match="entry 3 was NaN or infinite"):
            laplex.matvec(values, x)
    assert torch.equal(laplex.matvec(values, x), want)
    assert orders() == 1


# --- what only a GPU has --------------------------------------------------------------------------


@gpu_only
def test_a_graph_replays_a_product():
    x = torch.rand(5000, device="cuda")
    values = torch.randn(5000, device="cuda")
    ell = torch.tensor(0.1, dtype=torch.float64, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            laplex.matvec(values, x, lengthscale=ell)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = laplex.matvec(values, x, lengthscale=ell)
    values.copy_(torch.randn(5000, device="cuda"))
    ell.fill_(0.2)  # parameters are read where they are
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(result, laplex.matvec(values, x, lengthscale=ell))


@gpu_only
@pytest.mark.parametrize("n", [300, 20000])
def test_a_graph_replays_steps_that_move_the_anchors(n):
    def start() -> tuple[Tensor, torch.optim.Optimizer]:
        x = torch.linspace(0, 1, n, device="cuda").requires_grad_()
        return x, torch.optim.SGD([x], lr=0.3)

    values = torch.randn(n, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    ell = torch.tensor(0.1, dtype=torch.float64, device="cuda")

    def step(x: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
        optimiser.zero_grad(set_to_none=False)
        result = laplex.matvec(values, x, lengthscale=ell)
        result.square().mean().backward()
        optimiser.step()
        return result.detach()  # or its graph goes on, on the stream of the capture

    x, optimiser = start()
    eager = [step(x, optimiser).clone() for _ in range(5)]
    assert not torch.equal(eager[0], eager[-1])

    x, optimiser = start()
    x.grad = torch.zeros_like(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(x, optimiser)  # one to warm up
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(x, optimiser)
    for want in eager[1:]:
        graph.replay()
        assert torch.equal(result, want)
    laplex.plan_cache.clear()
    graph.replay()
    torch.testing.assert_close(laplex.matvec(values, x, lengthscale=ell), step(x, optimiser))


@gpu_only
def test_compiled_with_graphs():
    x = torch.rand(500, device="cuda").requires_grad_()
    values = torch.randn(500, device="cuda")
    compiled = torch.compile(lambda v, z: laplex.matvec(v * 2, z).sin(), mode="reduce-overhead")
    for _ in range(4):
        want = laplex.matvec(values * 2, x).sin()
        got = compiled(values, x)
        torch.testing.assert_close(got, want)
        got.sum().backward()
        with torch.no_grad():
            x -= 1e-3 * x.grad


@gpu_only
def test_streams_wait_for_the_order():
    x = torch.rand(2_000_000, device="cuda")
    values = torch.randn(2_000_000, device="cuda")
    want = laplex.matvec(values, x)
    torch.cuda.synchronize()
    cuda_execution.clear()
    laplex.matvec(values, x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = laplex.matvec(values, x)
    stream.synchronize()
    assert torch.equal(got, want)


@gpu_only
@pytest.mark.skipif(not HAS_GPU or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_every_device():
    x = torch.rand(100)
    values = torch.randn(100)
    first, second = (laplex.matvec(values.to(d), x.to(d)).cpu() for d in ("cuda:0", "cuda:1"))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="sources is on cuda:1, but targets is on cuda:0"):
        laplex.matvec(values.to("cuda:0"), x.to("cuda:0"), x.to("cuda:1"))


@gpu_only
def test_compiled_and_vmapped():
    x = torch.rand(4, 50, device="cuda")
    values = torch.randn(4, 50, device="cuda")
    want = laplex.matvec(values, x)
    assert torch.equal(torch.vmap(lambda v, z: laplex.matvec(v, z))(values, x), want)
    compiled = torch.compile(lambda v, z: laplex.matvec(v, z) * 2)
    assert torch.equal(compiled(values, x), want * 2)
