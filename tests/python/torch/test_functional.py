"""`laplex.matvec` itself: values, broadcasting, dtypes, layouts, and what it refuses."""

from __future__ import annotations

import itertools
import re
import threading

import numpy as np
import pytest
import torch

import laplex
from torch_cases import FORMS, case, dense, dense_matrix, function, operator

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_matches_dense(form, dtype, complex_values, self_case):
    inputs, real_part = case(
        form,
        n=40,
        m=30,
        dtype=dtype,
        complex_values=complex_values,
        self_case=self_case,
        ties=True,
        requires_grad=False,
    )
    found = operator(*inputs, real_part=real_part)
    values = inputs[0]
    exact = [
        None if t is None else t.to(torch.complex128 if t.is_complex() else torch.float64)
        for t in inputs
    ]
    expected = dense(*exact, real_part=real_part)
    assert found.is_complex() == expected.is_complex()
    assert (found.real.dtype if found.is_complex() else found.dtype) == dtype
    # The promise: relative to sum_j |K_ij| |v_j|, with the modulus of K also in the cosine form.
    # Float32 anchors are exact numbers, so the reference starts from the same problem.
    scale = dense_matrix(*exact[1:4]) @ exact[0].abs()
    bound = (1e-6 if dtype == torch.float32 else 1e-14) * scale
    assert values.dtype == inputs[0].dtype
    assert ((found.to(expected.dtype) - expected).abs() <= bound).all()


BATCHES = [(), (1,), (3,), (2, 1), (2, 3)]


@pytest.mark.parametrize("form", ["real", "all", "cosine"])
def test_broadcasting_matrix(form):
    """Leading dimensions of values, of anchors and of lengthscale, all against all."""
    for values_batch, anchor_batch, scalar_batch in itertools.product(BATCHES, repeat=3):
        inputs, real_part = case(form, values_batch=values_batch, batch=anchor_batch)
        scalars, _ = case(form, batch=scalar_batch, seed=1)
        inputs[3], inputs[4] = scalars[3], scalars[4]
        call, tensors = function(operator, inputs, real_part)
        reference, _ = function(dense, inputs, real_part)
        found, expected = call(*tensors), reference(*tensors)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
        assert found.is_contiguous()
        weight = torch.randn_like(found)
        ours = torch.autograd.grad(found, tensors, weight)
        theirs = torch.autograd.grad(expected, tensors, weight)
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_heads_between_rows():
    """Anchors' dimension in the middle: heads and rows interleave in memory."""
    values = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    targets = torch.randn(3, 1, 5, dtype=torch.float64)
    sources = torch.randn(3, 1, 6, dtype=torch.float64)
    ell = torch.ones((), dtype=torch.float64)
    found = laplex.matvec(values, targets, sources)
    torch.testing.assert_close(found, dense(values, targets, sources, ell))


def test_self_case_gradient_is_the_sum_of_both_roles():
    values, x = torch.randn(2, 7, dtype=torch.float64)
    x.requires_grad_()
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(7, dtype=torch.float64)
    both = torch.autograd.grad((laplex.matvec(values, x, y) * weight).sum(), (x, y))
    for sources in (None, x):
        (own,) = torch.autograd.grad((laplex.matvec(values, x, sources) * weight).sum(), x)
        torch.testing.assert_close(own, both[0] + both[1], rtol=1e-13, atol=1e-14)


def test_python_float_lengthscale_is_not_rounded_to_float32():
    """0.1 in float32 is off by 1.5e-8; an anchor 4096 away makes that 6e-3 of the value."""
    x, y = torch.tensor([4096.0]), torch.tensor([0.0])
    ell = 409.6 / 3
    expected = np.exp(-4096.0 / ell)
    found = laplex.matvec(torch.ones(1), x, y, lengthscale=ell)
    rounded = laplex.matvec(torch.ones(1), x, y, lengthscale=torch.tensor(ell))
    np.testing.assert_allclose(found.double(), expected, rtol=6e-8)  # float32's own rounding
    assert abs(float(rounded.double()) / expected - 1) > 2 * abs(
        float(found.double()) / expected - 1
    )
    in_double = laplex.matvec(
        torch.ones(1), x, y, lengthscale=torch.tensor(ell, dtype=torch.float64)
    )
    torch.testing.assert_close(found, in_double, rtol=0, atol=0)


def test_numbers_of_any_kind_are_scalars():
    x = torch.tensor([0.0, 1.0])
    expected = laplex.matvec(torch.ones(2), x, lengthscale=2.0, frequency=1.0)
    for two, one in ((2, 1), (np.float32(2), np.float64(1)), (np.int64(2), np.int32(1))):
        found = laplex.matvec(torch.ones(2), x, lengthscale=two, frequency=one)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_zero_frequency_number_is_real_and_a_tensor_is_complex():
    x = torch.tensor([0.0, 1.0])
    assert not laplex.matvec(torch.ones(2), x, frequency=0.0).is_complex()
    oscillating = laplex.matvec(torch.ones(2), x, frequency=torch.tensor(0.0))
    assert oscillating.dtype == torch.complex64
    torch.testing.assert_close(oscillating.real, laplex.matvec(torch.ones(2), x))


# --- memory layouts -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["real", "all", "cosine"])
@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
def test_non_contiguous_inputs(form, complex_values):
    inputs, real_part = case(form, n=6, m=6, complex_values=complex_values, requires_grad=False)
    expected = operator(*inputs, real_part=real_part)

    def every_other(tensor):
        if tensor is None or tensor.dim() == 0:
            return tensor
        spread = torch.full((12,), float("nan"), dtype=tensor.dtype)
        spread[::2] = tensor
        return spread[::2]

    strided = [every_other(t) for t in inputs]
    found = operator(*strided, real_part=real_part)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

    transposed = torch.stack([inputs[0]] * 3).T.contiguous().T
    found = operator(transposed, *strided[1:], real_part=real_part)
    torch.testing.assert_close(found, expected.expand(3, -1), rtol=0, atol=0)

    expanded = inputs[0].expand(5, 2, -1)
    found = operator(expanded, *strided[1:], real_part=real_part)
    torch.testing.assert_close(found, expected.expand(5, 2, -1), rtol=0, atol=0)


def test_lazily_conjugated_and_negated_inputs():
    z = torch.randn(5, dtype=torch.complex128)
    x = torch.randn(5, dtype=torch.complex128)
    assert z.conj().is_conj()
    assert x.conj().imag.is_neg()
    found = laplex.matvec(z.conj(), x.conj().imag, z.conj().imag, target_phase=z.conj().imag)
    expected = laplex.matvec(z.conj().resolve_conj(), -x.imag, -z.imag, target_phase=-z.imag)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(
        laplex.matvec(z.conj(), x.real, target_phase=z.real, real_part=True),
        laplex.matvec(z, x.real, target_phase=z.real, real_part=True).conj(),
    )


def test_lazily_conjugated_gradient():
    z = torch.randn(5, dtype=torch.complex128, requires_grad=True)
    x = torch.randn(5, dtype=torch.float64)
    weight = torch.randn(5, dtype=torch.complex128)
    out = laplex.matvec(z, x)
    lazy = torch.autograd.grad(out, z, weight.conj(), retain_graph=True)[0]
    plain = torch.autograd.grad(out, z, weight.conj().resolve_conj())[0]
    torch.testing.assert_close(lazy, plain, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_empty_tensors(form):
    for n, m, values_batch in itertools.product((0, 3), (0, 3), ((), (0,), (2,))):
        inputs, real_part = case(form, n=n, m=m, values_batch=values_batch)
        call, tensors = function(operator, inputs, real_part)
        out = call(*tensors)
        assert out.shape == (*values_batch, n)
        if m == 0:
            assert (out == 0).all()
        for options in ({}, {"create_graph": True}):
            grads = torch.autograd.grad(out.abs().sum(), tensors, retain_graph=True, **options)
            for grad, tensor in zip(grads, tensors, strict=True):
                assert grad.shape == tensor.shape
                if 0 in (n, m, out.numel()):
                    assert (grad == 0).all()


def test_inputs_are_left_alone():
    inputs, real_part = case("all", n=6, m=5, batch=(2,), values_batch=(3, 1))
    before = [None if t is None else t.detach().clone() for t in inputs]
    call, tensors = function(operator, inputs, real_part)
    torch.autograd.grad(call(*tensors).abs().sum(), tensors)
    for tensor, copy in zip(inputs, before, strict=True):
        if tensor is not None:
            torch.testing.assert_close(tensor, copy, rtol=0, atol=0)


def test_nan_values_propagate_like_in_a_matmul():
    values = torch.tensor([1.0, float("nan"), 2.0])
    x = torch.tensor([0.0, 1.0, 2.0])
    assert laplex.matvec(values, x).isnan().all()
    assert laplex.matvec(torch.tensor([1.0, float("inf")]), x[:2]).isinf().all()


def test_anchors_written_to_while_their_plan_is_built():
    """The plan kept for a content is that of this content, whoever writes meanwhile."""
    rng = np.random.default_rng(0)
    before, after = rng.random(300_000), rng.random(300_000)
    shared = before.copy()
    targets, values = torch.from_numpy(shared), torch.ones(before.size, dtype=torch.float64)
    expected = torch.from_numpy(laplex.Plan(after).apply(values.numpy()))
    for milliseconds in range(1, 40, 3):  # making the plan takes some thirty
        shared[:] = before
        write = threading.Timer(milliseconds / 1000, shared.__setitem__, (slice(None), after))
        write.start()
        laplex.matvec(values, targets)
        write.join()
        assert torch.equal(laplex.matvec(values, targets), expected), milliseconds
        laplex.plan_cache.clear()


def test_inference_mode_then_training():
    x = torch.tensor([0.0, 1.0, 2.5])
    with torch.inference_mode():
        quiet = laplex.matvec(torch.ones(3), x)
    values = torch.ones(3, requires_grad=True)
    out = laplex.matvec(values, x)
    torch.testing.assert_close(out.detach(), quiet.clone(), rtol=0, atol=0)
    out.sum().backward()
    torch.testing.assert_close(values.grad, quiet.clone())


def test_default_device_and_dtype_do_not_matter():
    x = torch.tensor([0.0, 1.0])
    expected = laplex.matvec(torch.ones(2), x)
    with torch.device("meta"):
        torch.testing.assert_close(laplex.matvec(torch.ones(2, device="cpu"), x), expected)
    old = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(laplex.matvec(torch.ones(2).float(), x), expected)
    finally:
        torch.set_default_dtype(old)


def test_meta_tensors_give_meta_results():
    values = torch.empty(3, 1, 5, device="meta")
    out = laplex.matvec(values, torch.empty(2, 4, device="meta"), torch.empty(5, device="meta"))
    assert out.device.type == "meta"
    assert out.shape == (3, 2, 4)
    phase = torch.empty(4, device="meta")
    x = torch.empty(4, device="meta")
    assert laplex.matvec(x, x, target_phase=phase).dtype == torch.complex64
    assert laplex.matvec(x, x, target_phase=phase, real_part=True).dtype == torch.float32


def test_results_do_not_depend_on_the_number_of_threads():
    inputs, real_part = case("cosine", n=20_000, m=20_000, values_batch=(3,))
    call, tensors = function(operator, inputs, real_part)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            out = call(*tensors)
            results.append((out, *torch.autograd.grad(out.sum(), tensors)))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# --- half precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_values(half):
    inputs, real_part = case("cosine", dtype=torch.float32, values_batch=(3,))
    values = inputs[0].detach().to(half).requires_grad_()
    out = operator(values, *inputs[1:], real_part=real_part)
    assert out.dtype == half
    exact = operator(values.detach().float(), *inputs[1:], real_part=real_part)
    torch.testing.assert_close(out, exact.to(half), rtol=0, atol=0)
    out.float().sum().backward()
    assert values.grad.dtype == half
    assert inputs[1].grad.dtype == torch.float32
    complex_result = operator(values, *inputs[1:])
    assert complex_result.dtype == torch.complex64


def test_autocast():
    linear = torch.nn.Linear(6, 5)
    targets = torch.randn(4, requires_grad=True)
    sources = torch.randn(5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = linear(torch.randn(3, 6))
        assert hidden.dtype == torch.bfloat16
        out = laplex.matvec(hidden, targets, sources, lengthscale=0.5)
        assert out.dtype == torch.bfloat16
        single = laplex.matvec(hidden.float(), targets, sources, lengthscale=0.5)
        assert single.dtype == torch.float32
        loss = out.square().mean()
    loss.backward()
    assert targets.grad.dtype == torch.float32
    assert linear.weight.grad.dtype == torch.float32
    torch.testing.assert_close(out, single.bfloat16(), rtol=0, atol=0)


# --- refusals -------------------------------------------------------------------------------------


class OnGpu:
    """What arrays of CuPy say of themselves."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        raise AssertionError


def test_arrays_on_a_gpu_are_referred_to_dlpack():
    for call in (
        lambda: laplex.matvec(OnGpu(), F),
        lambda: laplex.LaplaceOperator(OnGpu()),
        lambda: laplex.nn.LaplexLinear(3, 2)(OnGpu()),
        lambda: laplex.gram.LaplaceGram(OnGpu()),
    ):
        with pytest.raises(TypeError, match=r"got OnGpu: use torch\.from_dlpack"):
            call()


F = torch.tensor([0.0, 1.0, 2.0])


def refused(message, *args, **options):
    """What is said of these arguments."""
    return message, args, options


WRONG_TYPES = {
    "values-list": refused("values must be a torch tensor, got list", [1.0], F),
    "targets-array": refused(
        "targets must be a torch tensor, got ndarray: use torch.as_tensor, or laplex.Plan",
        F,
        np.zeros(3),
    ),
    "phase-list": refused("target_phase must be a torch tensor", F, F, target_phase=[0.0]),
    "lengthscale-text": refused(
        "lengthscale must be a float or a torch tensor, got str", F, F, lengthscale="1"
    ),
    "frequency-none": refused(
        "frequency must be a float or a torch tensor, got NoneType", F, F, frequency=None
    ),
    "integer-anchors": refused(
        "targets has dtype torch.int64, but anchors must be float32 or float64", F, F.long()
    ),
    "bfloat16-anchors": refused(
        r"targets has dtype torch.bfloat16.* pass targets.float\(\)", F.bfloat16(), F.bfloat16()
    ),
    "half-values-double-anchors": refused(
        "values has dtype torch.float16, but the anchors are torch.float64", F.half(), F.double()
    ),
    "values-of-other-precision": refused(
        r"values has dtype torch.float32, but the anchors are torch.float64.*"
        r"values.to\(torch.float64\)",
        F,
        F.double(),
    ),
    "integer-values": refused("values has dtype torch.int64", F.long(), F),
    "sources-of-other-precision": refused(
        r"sources has dtype torch.float64, but targets has torch.float32: "
        r"pass sources.to\(torch.float32\)",
        F,
        F,
        F.double(),
    ),
    "phase-of-other-precision": refused(
        "source_phase has dtype torch.float64", F, F, source_phase=F.double()
    ),
    "integer-lengthscale-tensor": refused(
        "lengthscale has dtype torch.int64, but must be a Python float",
        F,
        F,
        lengthscale=torch.tensor(1),
    ),
}
WRONG_VALUES = {
    "0-d-targets": refused("targets is a 0-d tensor", F, F[0]),
    "0-d-sources": refused("sources is a 0-d tensor", F, F, F[0]),
    "0-d-values": refused("values is a 0-d tensor", F[0], F),
    "values-length": refused(
        "values has 2 entries in its last dimension, but there are 3 sources", F[:2], F, F.clone()
    ),
    "values-length-self": refused("which are also the sources", F[:2], F),
    "phase-length": refused(
        r"target_phase has shape \(2,\), but its last dimension must be 3", F, F, target_phase=F[:2]
    ),
    "batches": refused(
        r"leading dimensions do not broadcast: values \(4, 3\), targets \(5, 3\)",
        F.expand(4, 3),
        F.expand(5, 3),
    ),
    "lengthscale-shape": refused(
        r"lengthscale \(3,\).*lengthscale and frequency have leading dimensions only",
        F.expand(2, 3),
        F.expand(2, 3),
        lengthscale=torch.ones(3),
    ),
    "devices": refused(
        r"sources is on meta, but targets is on cpu: move it with sources.to\('cpu'\)",
        F,
        F,
        F.to("meta"),
    ),
    "nan-targets": refused("targets", F, F * float("nan")),
    "infinite-sources": refused("sources", F, F, F + float("inf")),
    "nan-phase": refused("target_phase", F, F, target_phase=F * float("nan")),
    "zero-lengthscale": refused("lengthscale", F, F, lengthscale=0.0),
    "negative-lengthscale": refused("lengthscale", F, F, lengthscale=torch.tensor(-1.0)),
    "nan-lengthscale": refused("lengthscale", F, F, lengthscale=float("nan")),
    "infinite-frequency": refused("frequency", F, F, frequency=float("inf")),
}
BAD = {
    **{name: (TypeError, *case) for name, case in WRONG_TYPES.items()},
    **{name: (ValueError, *case) for name, case in WRONG_VALUES.items()},
}


@pytest.mark.parametrize(("kind", "message", "args", "options"), BAD.values(), ids=BAD)
def test_refuses(kind, message, args, options):
    with pytest.raises(kind, match=message):
        laplex.matvec(*args, **options)


def test_refuses_devices_that_it_cannot_compute_on():
    """Fake tensors stand in for a GPU that this machine need not have."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(3, device="cuda")
        if laplex._core.has_cuda:
            assert laplex.matvec(x, x).device.type == "cuda"
        else:
            with pytest.raises(NotImplementedError, match="supports only the CPU"):
                laplex.matvec(x, x)
        x = torch.empty(3, device="mps")
        with pytest.raises(NotImplementedError, match=r"targets is on mps.*CPU and CUDA tensors"):
            laplex.matvec(x, x)


def test_the_registered_operator_checks_its_arguments_too():
    """torch.ops.laplex reaches raw memory, so it must not trust its caller."""
    ell = torch.tensor(1.0)
    rest = (None, ell, None, None, None, False, 0, [1.0])
    with pytest.raises(ValueError, match="values has 2 entries"):
        torch.ops.laplex.matvec(F[:2], F, *rest)
    with pytest.raises(TypeError, match=r"call laplex\.matvec"):
        torch.ops.laplex.matvec(F.to(torch.complex64), F, None, ell, None, F, None, True, 0, [1.0])
    grads = (None, ell, None, None, None, False, 0, [1.0], 0, [True] * 7)
    with pytest.raises(ValueError, match=re.escape("grad has shape (2,)")):
        torch.ops.laplex.matvec_vjp(F[:2], F, F, *grads)
    with pytest.raises(TypeError, match=r"grad has dtype torch\.float64"):
        torch.ops.laplex.matvec_vjp(F.double(), F, F, *grads)
    for parity in (6, -1):
        with pytest.raises(ValueError, match="parity must be 0, 1, 2, 3, 4 or 5"):
            torch.ops.laplex.matvec(F, F, *rest[:-2], parity, [1.0])
    with pytest.raises(ValueError, match=r"a cumulative sum \(parity 5\) takes real values"):
        torch.ops.laplex.matvec(F, F, *rest[:-2], 5, [0.0, 1.0])
    with pytest.raises(NotImplementedError, match="at most 4 times"):
        torch.ops.laplex.matvec(F, F, *rest[:-1], [0.0] * 5 + [1.0])


def test_numbers_of_one_call_are_not_those_of_another():
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    v = torch.ones_like(x)
    before = laplex.matvec(v, x, lengthscale=0.51)
    torch.func.hessian(lambda x: laplex.matvec(v, x, lengthscale=0.51).sum())(x)
    operator = laplex.LaplaceOperator(x, lengthscale=0.51)
    operator.lengthscale.mul_(3)
    with torch.device("meta"):
        inside = laplex.matvec(v.expand(2, 5).clone(), x, lengthscale=0.51)
    assert torch.equal(inside[0], before)
    assert torch.equal(laplex.matvec(v, x, lengthscale=0.51), before)


@pytest.mark.parametrize("change", ["shorter", "narrower", "conjugate"])
def test_saved_tensors_that_come_back_otherwise(change):
    x, y = (torch.rand(n, dtype=torch.float64, requires_grad=True) for n in (30, 20))
    v = torch.rand(20, dtype=torch.complex128, requires_grad=True)
    unpack = {
        "shorter": lambda t: t[:10] if t.shape == (30,) else t,
        "narrower": lambda t: t.to(torch.complex64) if t.is_complex() else t,
        "conjugate": lambda t: t.conj().resolve_conj().conj() if t.is_complex() else t,
    }[change]
    wanted = torch.autograd.grad(laplex.matvec(v, x, y).abs().sum(), (v, x, y))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        product = laplex.matvec(v, x, y)
    if change == "conjugate":
        found = torch.autograd.grad(product.abs().sum(), (v, x, y))
        assert all(map(torch.equal, found, wanted))
    else:
        with pytest.raises((ValueError, TypeError), match=r"grad has|values has"):
            product.abs().sum().backward()
