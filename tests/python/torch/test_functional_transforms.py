"""`laplex.matvec` under torch's transforms: vmap, jacrev, jacfwd, hessian, compile; and opcheck."""

from __future__ import annotations

import itertools

import pytest
import torch

import laplex
from torch_cases import FORMS, case, dense, function, operator

pytestmark = pytest.mark.usefixtures("seeded")

MAIN_FORMS = ("real", "carrier", "oscillating", "cosine")


def raw(form, requires_grad=True, parity=0, polynomial=(1.0,), side=0, **options):
    """Arguments of ``torch.ops.laplex.matvec``."""
    inputs, real_part = case(form, requires_grad=requires_grad, **options)
    return (*inputs, real_part, parity, list(polynomial), side)


# --- opcheck --------------------------------------------------------------------------------------


@pytest.mark.parametrize("requires_grad", [False, True], ids=["no-grad", "grad"])
@pytest.mark.parametrize("form", MAIN_FORMS)
def test_opcheck_matvec(form, requires_grad):
    laplex.matvec  # noqa: B018  (the operators are registered when the function is first looked up)
    op = torch.ops.laplex.matvec.default
    torch.library.opcheck(op, raw(form, requires_grad))
    torch.library.opcheck(op, raw(form, requires_grad, batch=(2,), values_batch=(3, 1)))
    square = raw(form, requires_grad, self_case=True, parity=1, polynomial=(0.0, 0.0, 1.0))
    torch.library.opcheck(op, square)
    torch.library.opcheck(op, raw(form, requires_grad, side=2))


# With gradients the operator is its composite formula, whose every step opcheck compiles: slow.
VJP_CASES = [(form, False) for form in MAIN_FORMS] + [("real", True), ("cosine", True)]


# opcheck itself reads .grad of what the operator computes inside.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("form", "requires_grad"), VJP_CASES)
def test_opcheck_matvec_vjp(form, requires_grad):
    laplex.matvec  # noqa: B018
    arguments = raw(form, requires_grad, n=3, m=2, batch=(2,), values_batch=(3, 1))
    grad = torch.randn_like(torch.ops.laplex.matvec(*arguments)).detach()
    needs = [each is not None for each in arguments[:7]]
    op = torch.ops.laplex.matvec_vjp.default
    if requires_grad:
        grad.requires_grad_()
    else:
        torch.library.opcheck(op, (grad, *arguments, needs))
    needs[0] = needs[3] = False
    torch.library.opcheck(op, (grad, *arguments, needs))


def test_the_operators_cannot_be_differentiated_in_torch_func_and_say_so():
    arguments = raw("real", requires_grad=False)

    def loss(values):
        return torch.ops.laplex.matvec(values, *arguments[1:]).sum()

    with pytest.raises(RuntimeError, match=r"call laplex\.matvec there"):
        torch.func.grad(loss)(arguments[0])


# --- vmap -----------------------------------------------------------------------------------------


def batched_case(form, mapped, in_dim, self_case=False):
    """Three cases, stacked along `in_dim` where `mapped` says so; the rest from the first."""
    cases = [case(form, requires_grad=False, self_case=self_case, seed=s)[0] for s in range(3)]
    real_part = FORMS[form][2]
    in_dims, stacked = [], []
    for position, each in enumerate(zip(*cases, strict=True)):
        if each[0] is None:
            in_dims.append(None)
            stacked.append(None)
        elif position in mapped:
            dim = in_dim if each[0].dim() else 0
            in_dims.append(dim)
            stacked.append(torch.stack(each, dim=dim))
        else:
            in_dims.append(None)
            stacked.append(each[0])
    rows = [
        [(cases[k] if position in mapped else cases[0])[position] for position in range(7)]
        for k in range(3)
    ]
    return stacked, tuple(in_dims), rows, real_part


@pytest.mark.parametrize("in_dim", [0, 1, -1])
@pytest.mark.parametrize("form", ["real", "all", "cosine"])
def test_vmap_over_each_argument_equals_a_loop(form, in_dim):
    for size in (1, 2, 7):
        for mapped in itertools.combinations(range(7), size):
            stacked, in_dims, rows, real_part = batched_case(form, mapped, in_dim)
            if all(dim is None for dim in in_dims):
                continue

            def call(*inputs, real_part=real_part):
                return operator(*inputs, real_part=real_part)

            found = torch.vmap(call, in_dims=in_dims)(*stacked)
            expected = torch.stack([call(*row) for row in rows])
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_vmap_of_the_registered_operator_equals_a_loop():
    stacked, in_dims, rows, real_part = batched_case("all", range(7), 1)

    def call(*inputs):
        return torch.ops.laplex.matvec(*inputs, real_part, 1, [0.0, 0.0, 1.0])

    found = torch.vmap(call, in_dims=in_dims)(*stacked)
    torch.testing.assert_close(found, torch.stack([call(*row) for row in rows]))


def test_vmap_over_tensors_of_different_rank():
    """Values with a batch of their own, anchors with heads, one of them mapped at a time."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 5, 1, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    sources = torch.randn(4, generator=generator, dtype=torch.float64)
    lengthscale = 0.5 + torch.rand(3, generator=generator, dtype=torch.float64)

    def call(v, x, y, ell):
        return operator(v, x, y, ell)

    whole = call(values, targets, sources, lengthscale)
    over_values = torch.vmap(call, in_dims=(1, None, None, None), out_dims=1)
    torch.testing.assert_close(over_values(values, targets, sources, lengthscale), whole)
    heads = torch.vmap(call, in_dims=(None, 0, None, 0), out_dims=2)
    torch.testing.assert_close(heads(values[:, :, 0], targets, sources, lengthscale), whole)
    inner = torch.vmap(call, in_dims=(None, 0, None, 0), out_dims=1)
    nested = torch.vmap(inner, in_dims=(0, None, None, None))
    torch.testing.assert_close(nested(values[:, :, 0], targets, sources, lengthscale), whole)


def test_vmap_of_the_registered_gradients_equals_a_loop():
    stacked, in_dims, rows, real_part = batched_case("all", range(7), 1)
    needs = [True] * 7

    def call(grad, *inputs):
        return torch.ops.laplex.matvec_vjp(grad, *inputs, real_part, 0, [1.0], 0, needs)

    grad = torch.randn(3, 5, dtype=torch.complex128)
    found = torch.vmap(call, in_dims=(0, *in_dims))(grad, *stacked)
    for k in range(3):
        for a, b in zip(found, call(grad[k], *rows[k]), strict=True):
            torch.testing.assert_close(a[k], b)


@pytest.mark.parametrize("form", MAIN_FORMS)
def test_per_sample_gradients(form):
    """vmap of grad: the gradient of shared anchors for every sample."""
    inputs, real_part = case(form, requires_grad=False)
    values = torch.randn(3, 4, dtype=torch.float64)
    call, tensors = function(operator, inputs, real_part)

    def loss(v, *rest):
        return call(v, *rest).abs().square().sum()

    count = len(tensors)
    gradient = torch.func.grad(loss, argnums=tuple(range(count)))
    found = torch.vmap(gradient, in_dims=(0,) + (None,) * (count - 1))(values, *tensors[1:])
    for k in range(3):
        expected = gradient(values[k], *tensors[1:])
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a[k], b, rtol=1e-11, atol=1e-11)


def test_vmap_over_the_fused_gradients():
    """is_grads_batched vmaps a backward pass that is not itself recorded."""
    inputs, real_part = case("cosine")
    call, tensors = function(operator, inputs, real_part)
    out = call(*tensors)
    basis = torch.eye(out.numel(), dtype=torch.float64)
    together = torch.autograd.grad(out, tensors, basis, is_grads_batched=True, retain_graph=True)
    for k in range(out.numel()):
        alone = torch.autograd.grad(out, tensors, basis[k], retain_graph=True)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[k], b, rtol=1e-12, atol=1e-13)


# --- torch.func -----------------------------------------------------------------------------------


def as_real(z):
    return torch.view_as_real(z) if z.is_complex() else z


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("form", FORMS)
def test_jacobians_match_dense(form, self_case):
    inputs, real_part = case(form, requires_grad=False, self_case=self_case)
    call, tensors = function(operator, inputs, real_part)
    reference, _ = function(dense, inputs, real_part)
    argnums = tuple(range(len(tensors)))
    expected = torch.func.jacrev(lambda *t: as_real(reference(*t)), argnums)(*tensors)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        found = jacobian(lambda *t: as_real(call(*t)), argnums)(*tensors)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
@pytest.mark.parametrize("form", FORMS)
def test_jvp_matches_dense(form, complex_values):
    inputs, real_part = case(
        form, complex_values=complex_values, batch=(2,), values_batch=(3, 1), requires_grad=False
    )
    call, tensors = function(operator, inputs, real_part)
    reference, _ = function(dense, inputs, real_part)
    tangents = tuple(torch.randn_like(t) for t in tensors)
    primal, tangent = torch.func.jvp(call, tuple(tensors), tangents)
    expected, expected_tangent = torch.func.jvp(reference, tuple(tensors), tangents)
    torch.testing.assert_close(primal, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent, expected_tangent, rtol=1e-11, atol=1e-11)


def test_jvp_of_the_registered_operator():
    """Forward mode outside torch.func reaches the operator itself too."""
    arguments = raw("all", requires_grad=False)
    tangent = torch.randn_like(arguments[1])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(arguments[1], tangent)
        out = torch.ops.laplex.matvec(arguments[0], dual, *arguments[2:])
        found = torch.autograd.forward_ad.unpack_dual(out).tangent
    _, expected = torch.func.jvp(
        lambda x: dense(arguments[0], x, *arguments[2:7]), (arguments[1],), (tangent,)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", MAIN_FORMS)
def test_forward_and_reverse_mode_mixed_outside_torch_func(form):
    """Hessian-vector products, forward over reverse and reverse over forward, by dual numbers."""
    inputs, real_part = case(form)
    call, tensors = function(operator, inputs, real_part)
    reference, _ = function(dense, inputs, real_part)
    tangents = tuple(torch.randn_like(t) for t in tensors)

    def loss(which, *t):
        return as_real(which(*t)).pow(3).sum()

    grads = torch.autograd.grad(loss(reference, *tensors), tensors, create_graph=True)
    slope = sum((g * t).sum() for g, t in zip(grads, tangents, strict=True))
    expected = torch.autograd.grad(slope, tensors)

    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, tangents, strict=True)]
        out = loss(call, *duals)
        along = forward_ad.unpack_dual(out).tangent
        torch.testing.assert_close(along, slope, rtol=1e-11, atol=1e-11)
        reverse_over_forward = torch.autograd.grad(along, tensors, retain_graph=True)
        forward_over_reverse = [
            forward_ad.unpack_dual(grad).tangent for grad in torch.autograd.grad(out, duals)
        ]
    for found in (reverse_over_forward, forward_over_reverse):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", MAIN_FORMS)
def test_hessians_match_dense(form):
    inputs, real_part = case(form, n=3, m=2, requires_grad=False)
    call, tensors = function(operator, inputs, real_part)
    reference, _ = function(dense, inputs, real_part)
    argnums = tuple(range(len(tensors)))

    def loss(which):
        return lambda *t: as_real(which(*t)).pow(3).sum()

    func = torch.func
    expected = func.jacrev(func.jacrev(loss(reference), argnums), argnums)(*tensors)
    for outer, inner in itertools.product((func.jacfwd, func.jacrev), repeat=2):
        found = outer(inner(loss(call), argnums), argnums)(*tensors)
        for row, expected_row in zip(found, expected, strict=True):
            for a, b in zip(row, expected_row, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_third_derivative_by_nested_jacrev():
    inputs, _ = case("oscillating", n=2, m=2, requires_grad=False)
    values, targets, sources, lengthscale, frequency = inputs[:5]

    def third(which):
        def loss(x, ell, omega):
            return as_real(which(values, x, sources, ell, omega)).pow(2).sum()

        jacrev = torch.func.jacrev
        return jacrev(jacrev(jacrev(loss, (0, 1, 2)), (0, 1, 2)), (0, 1, 2))(
            targets, lengthscale, frequency
        )

    flat, _ = torch.utils._pytree.tree_flatten(third(operator))
    expected, _ = torch.utils._pytree.tree_flatten(third(dense))
    assert len(flat) == 27
    for a, b in zip(flat, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- torch.compile --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("form", MAIN_FORMS)
def test_compile_forward_and_backward(form, dynamic):
    inputs, real_part = case(form, batch=(2,), values_batch=(3, 1))
    call, tensors = function(operator, inputs, real_part)

    def step(*t):
        out = call(t[0] * 2, *t[1:])
        return (out * out).sum().abs()

    # "aot_eager" runs dynamo, fake tensors, autograd and functionalisation; what it leaves out is
    # the code generation, which the operators take no part in (one inductor test below).
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (5, 9) if dynamic else (5,):
        inputs, _ = case(form, n=size, m=size + 1, batch=(2,), values_batch=(3, 1))
        tensors = [each for each in inputs if each is not None]
        found, expected = compiled(*tensors), step(*tensors)
        torch.testing.assert_close(found, expected)
        for a, b in zip(
            torch.autograd.grad(found, tensors), torch.autograd.grad(expected, tensors), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_compile_does_not_recompile_for_a_new_size():
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(
        lambda v, x, y: laplex.matvec(v, x, y, lengthscale=0.5) + 1,
        fullgraph=True,
        dynamic=True,
        backend=counter,
    )
    for size in (5, 8, 13):
        v, x, y = torch.randn(size), torch.randn(size + 2), torch.randn(size)
        torch.testing.assert_close(compiled(v, x, y), laplex.matvec(v, x, y, lengthscale=0.5) + 1)
    assert counter.frame_count == 1


def test_compile_with_inductor():
    """The default backend, with Python scalars, half-precision values and a scalar's gradient."""

    def step(values, targets, sources, ell):
        mixed = laplex.matvec(
            values.sin(), targets, sources, lengthscale=ell.exp(), frequency=2.0, real_part=True
        )
        return laplex.matvec(mixed, targets, lengthscale=0.25).cos().sum()

    compiled = torch.compile(step, fullgraph=True)
    tensors = [torch.randn(n, requires_grad=True) for n in (6, 8, 6)]
    tensors.append(torch.tensor(0.1, requires_grad=True))
    # Our operators take no part in the code generation: here in this process, not in workers that
    # import torch first, and without vector instructions, each of which is tried out by a compiler
    # (`simdlen` too, since torch remembers what an earlier compilation found).
    cheap = {"compile_threads": 1, "cpp.vec_isa_ok": False, "cpp.simdlen": 1}
    expected = step(*tensors)
    with torch._inductor.config.patch(cheap):
        found = compiled(*tensors)
        grads = torch.autograd.grad(found, tensors)
    torch.testing.assert_close(found, expected)
    for a, b in zip(grads, torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
