"""First, second and third derivatives of `laplex.matvec`: finite differences, the dense formula,
and the convention at ties."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import laplex
from torch_cases import FORMS, NAMES, case, dense, dense_matrix, function, operator

pytestmark = pytest.mark.usefixtures("seeded")

# The four forms of the specification, for the slower checks.
MAIN_FORMS = ("real", "carrier", "oscillating", "cosine")


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form, complex_values, self_case):
    inputs, real_part = case(form, complex_values=complex_values, self_case=self_case)
    call, tensors = function(operator, inputs, real_part)
    assert gradcheck(call, tensors, check_batched_grad=True)


@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
@pytest.mark.parametrize("form", MAIN_FORMS)
def test_gradcheck_forward_mode(form, complex_values):
    inputs, real_part = case(form, n=4, m=3, complex_values=complex_values)
    call, tensors = function(operator, inputs, real_part)
    assert gradcheck(call, tensors, check_forward_ad=True, check_batched_forward_grad=True)


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
@pytest.mark.parametrize("form", MAIN_FORMS)
def test_gradgradcheck(form, complex_values, self_case):
    inputs, real_part = case(form, n=4, m=3, complex_values=complex_values, self_case=self_case)
    call, tensors = function(operator, inputs, real_part)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("form", MAIN_FORMS)
def test_gradcheck_batched_heads(form):
    inputs, real_part = case(form, n=3, m=2, batch=(2,), values_batch=(2, 1))
    call, tensors = function(operator, inputs, real_part)
    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


INPUTS_OF_FORMS = [
    pytest.param(form, position, id=f"{form}-{NAMES[position]}")
    for form in MAIN_FORMS
    for position, tensor in enumerate(case(form)[0])
    if tensor is not None
]


@pytest.mark.parametrize(("form", "position"), INPUTS_OF_FORMS)
def test_gradient_of_one_input_alone(form, position):
    """Only one input asks for its gradient: the others' shares of the formula are skipped."""
    inputs, real_part = case(form, requires_grad=False)
    inputs[position].requires_grad_()
    weight = torch.randn(5, dtype=torch.float64)

    def gradient(which):
        call, tensors = function(which, inputs, real_part)
        out = call(*tensors)
        (found,) = torch.autograd.grad((weight * out).abs().square().sum(), inputs[position])
        return found

    torch.testing.assert_close(gradient(operator), gradient(dense), rtol=1e-11, atol=1e-12)


def derivatives(which, inputs, real_part, order, seed=1):
    """Nested directional derivatives up to an order: scalars and gradients at every level."""
    call, tensors = function(which, inputs, real_part)
    generator = torch.Generator().manual_seed(seed)
    out = call(*tensors)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    if out.is_complex():
        weight = torch.complex(
            weight, torch.randn(out.shape, generator=generator, dtype=torch.float64)
        )
    scalar = (weight.conj() * out).sum()
    scalar = scalar.real if scalar.is_complex() else scalar
    levels = []
    for level in range(order):
        grads = torch.autograd.grad(
            scalar,
            tensors,
            create_graph=level + 1 < order,
            allow_unused=True,
            materialize_grads=True,
        )
        levels.append(grads)
        scalar = torch.zeros((), dtype=torch.float64)
        for grad in grads:
            direction = torch.randn(grad.shape, generator=generator, dtype=torch.float64)
            part = (direction * grad).sum()
            scalar = scalar + (part.real if part.is_complex() else part)
    return levels


def assert_same_derivatives(inputs, real_part, order):
    found = derivatives(operator, inputs, real_part, order)
    expected = derivatives(dense, inputs, real_part, order)
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(float(each.detach().abs().max()) for each in theirs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
@pytest.mark.parametrize("form", MAIN_FORMS)
def test_fourth_derivatives_away_from_ties(form, complex_values, self_case):
    """Every level of a fourth-order nest, all inputs at once, against the dense formula."""
    inputs, real_part = case(form, complex_values=complex_values, self_case=self_case)
    assert_same_derivatives(inputs, real_part, order=4)


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("complex_values", [False, True], ids=["real-v", "complex-v"])
@pytest.mark.parametrize("form", FORMS)
def test_derivatives_at_ties(form, complex_values, self_case):
    """At ties the dense formula's abs has the same convention, sign(0) = 0, to third order."""
    inputs, real_part = case(
        form, n=6, m=7, complex_values=complex_values, self_case=self_case, ties=True
    )
    assert_same_derivatives(inputs, real_part, order=3)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_at_a_tie_is_the_mean_of_one_sided_derivatives(form):
    inputs, real_part = case(form, n=1, m=1, requires_grad=False)
    values, _, _, lengthscale, frequency, theta, phi = inputs
    tied = torch.full((1,), 0.25, dtype=torch.float64)

    def product(x, y):
        out = operator(values, x, y, lengthscale, frequency, theta, phi, real_part=real_part)
        out = torch.view_as_real(out) if out.is_complex() else out
        return (out * torch.tensor([1.0, 0.7], dtype=torch.float64)[: out.shape[-1]]).sum()

    for moved in ("targets", "sources"):
        x, y = tied.clone().requires_grad_(), tied.clone().requires_grad_()
        grads = torch.autograd.grad(product(x, y), (x, y))
        step = 1e-6
        at = product(tied, tied)
        if moved == "targets":
            up, down = product(tied + step, tied), product(tied - step, tied)
        else:
            up, down = product(tied, tied + step), product(tied, tied - step)
        grad = grads[0 if moved == "targets" else 1]
        mean = ((up - at) / step + (at - down) / step) / 2
        torch.testing.assert_close(grad.sum(), mean, rtol=1e-5, atol=1e-6)
        # The kernel of one tied pair has a symmetric kink, so the mean is 0.
        torch.testing.assert_close(grad.sum(), torch.zeros_like(mean), rtol=0, atol=0)


def test_second_derivative_at_ties_leaves_the_tied_mass_out():
    """d2/dx2 of exp(-|x - y|) is sign^2 exp(-|x - y|): 0 from a tied source."""
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, 2.0], dtype=torch.float64)
    out = operator(torch.ones(2, dtype=torch.float64), x, y, torch.tensor(1.0)).sum()
    (first,) = torch.autograd.grad(out, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    expected = torch.exp(torch.tensor([-1.0], dtype=torch.float64))
    torch.testing.assert_close(first, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(second, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_fused_gradients_equal_the_composite_formula(form):
    """backward() takes one fused pass; with create_graph it takes calls of the operator itself."""
    for complex_values, self_case, ties in itertools.product((False, True), repeat=3):
        inputs, real_part = case(
            form,
            n=7,
            m=6,
            complex_values=complex_values,
            self_case=self_case,
            ties=ties,
            batch=(2,),
            values_batch=(3, 1),
        )
        call, tensors = function(operator, inputs, real_part)
        out = call(*tensors)
        weight = torch.randn_like(out)
        fused = torch.autograd.grad(out, tensors, weight, retain_graph=True)
        composite = torch.autograd.grad(out, tensors, weight, create_graph=True)
        for a, b in zip(fused, composite, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert not a.requires_grad
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_float32_gradients_are_near_those_in_float64(form):
    inputs, real_part = case(form, n=60, m=50, dtype=torch.float32)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in inputs]
    weight = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def gradients(of, **options):
        call, tensors = function(operator, of, real_part)
        out = call(*tensors)
        loss = (weight.to(of[0].dtype) * (out.real + out.imag if out.is_complex() else out)).sum()
        return torch.autograd.grad(loss, tensors, **options)

    reference = gradients(exact)
    for options in ({}, {"create_graph": True}):
        for a, b in zip(gradients(inputs, **options), reference, strict=True):
            assert a.dtype == torch.float32
            scale = float(b.abs().max())
            torch.testing.assert_close(a.double(), b, rtol=2e-4, atol=2e-5 * scale)


def test_fifth_derivative_says_that_it_is_not_available():
    x = torch.tensor([0.3], dtype=torch.float64)
    ell = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    out = operator(torch.ones(1, dtype=torch.float64), x, x + 1, ell).sum()
    for _ in range(4):
        (out,) = torch.autograd.grad(out, ell, create_graph=True)
    with pytest.raises(NotImplementedError, match="at most 4 times in total"):
        torch.autograd.grad(out, ell)


def test_hessian_matches_dense():
    inputs, real_part = case("cosine", n=3, m=2, requires_grad=False)
    call, tensors = function(operator, inputs, real_part)
    reference, _ = function(dense, inputs, real_part)
    position = tuple(range(len(tensors)))
    ours = torch.autograd.functional.hessian(lambda *t: call(*t).square().sum(), tuple(tensors))
    theirs = torch.autograd.functional.hessian(
        lambda *t: reference(*t).square().sum(), tuple(tensors)
    )
    for row, column in itertools.product(position, repeat=2):
        torch.testing.assert_close(ours[row][column], theirs[row][column], rtol=1e-10, atol=1e-11)


def test_dense_reference_itself():
    """The reference against numbers worked out by hand."""
    matrix = dense_matrix(
        torch.tensor([0.0]),
        torch.tensor([2.0]),
        torch.tensor(4.0),
        torch.tensor(0.5),
        torch.tensor([0.3]),
        torch.tensor([0.1]),
    )
    expected = torch.exp(torch.tensor(complex(-0.5, 1.0 + 0.2)))
    torch.testing.assert_close(matrix[0, 0], expected)


def test_a_lengthscale_too_small_for_float32():
    """Nothing reaches anything: gradients are 0, in the fused pass and in the recorded one."""
    x = torch.tensor([0.0, 1.0, 1.0, 3.0], requires_grad=True)
    for ell in (1e-50, 1e-300):
        lengthscale = torch.tensor(ell, dtype=torch.float64, requires_grad=True)
        u = laplex.matvec(torch.ones(4), x, lengthscale=lengthscale).sum()
        for create_graph in (False, True):
            for gradient in torch.autograd.grad(
                u, (x, lengthscale), create_graph=create_graph, retain_graph=True
            ):
                assert not gradient.any()


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [((), ()), ((), (3,)), ((2,), (2,)), ((2,), (11, 2))])
def test_second_gradients_in_one_call_are_those_of_the_formula(shape, dtype, self_case):
    """Real products differentiate their gradients in the core, except where those are recorded."""
    batch, rows = shape
    options = {"self_case": self_case, "ties": True, "batch": batch, "values_batch": rows}
    inputs, _ = case("real", n=300, m=200, dtype=dtype, **options)
    tensors = [each for each in inputs if each is not None]
    grad = torch.randn((*rows, 300), dtype=dtype, requires_grad=True)
    product = operator(*inputs[:4])
    for asked in ((0, 1, 2, 3), (0,), (1,), (-1,), (1, -1)):
        wanted = [tensors[k] for k in sorted({k % len(tensors) for k in asked})]
        gradients = torch.autograd.grad(product, wanted, grad, create_graph=True)
        weights = [torch.randn_like(each) for each in gradients]
        together = [*tensors, grad]
        several = {"retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(gradients, together, weights, **several)
        recorded = torch.autograd.grad(
            gradients, together, weights, create_graph=True, allow_unused=True
        )
        for ours, with_graph in zip(found, recorded, strict=True):
            formula = None if with_graph is None else with_graph.detach()
            if ours is None or formula is None:
                assert ours is None or not ours.any()
                assert formula is None or not formula.any()
                continue
            # Both are sums of at most ten products, each within the promise (1e-6 or 1e-14) of its
            # terms without their signs; 20 and 100 of it leave room for the terms that cancel.
            scale = float(formula.abs().max()) + 1e-30
            bound = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
            assert float((ours - formula).abs().max()) <= bound * scale


def test_second_gradients_do_not_depend_on_the_threads():
    torch.manual_seed(0)
    x, y = (torch.rand(n, requires_grad=True) for n in (90_000, 70_000))
    v = torch.randn(70_000, requires_grad=True)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            product = laplex.matvec(v, x, y, lengthscale=0.01)
            grad = torch.cos(torch.arange(90_000.0))
            gradients = torch.autograd.grad(product, (v, x, y), grad, create_graph=True)
            results.append(torch.autograd.grad(gradients, (v, x, y), [v.sin(), x.cos(), y.cos()]))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kernel", ["matern12", "matern32"])
def test_inputs_that_depend_on_one_another(kernel):
    """Each derivative counts every way from the anchors to the result once."""
    x = torch.rand(6, dtype=torch.float64, requires_grad=True)
    root, degree = (3**0.5, 1) if kernel == "matern32" else (1.0, 0)

    def ours(x):
        return laplex.matvec((3 * x).sin(), x, lengthscale=0.7 + x[0] * x[1], kernel=kernel)

    def formula(x):
        s = root * (x[:, None] - x).abs() / (0.7 + x[0] * x[1])
        return ((1 + degree * s) * torch.exp(-s)) @ (3 * x).sin()

    values = [function(x).square().sum() for function in (ours, formula)]
    for _ in range(3):
        gradients = [torch.autograd.grad(value, x, create_graph=True)[0] for value in values]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
        values = [gradient.square().sum() for gradient in gradients]


@pytest.mark.parametrize("create_graph", [False, True])
def test_saved_anchors_that_come_back_in_another_number(create_graph):
    x, y, v = (torch.rand(n, dtype=torch.float64, requires_grad=True) for n in (30, 20, 20))
    for other in (lambda t: t[:10], lambda t: torch.cat([t, t])):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: t, lambda t, other=other: other(t) if t.shape == (30,) else t
        ):
            product = laplex.matvec(v, x, y)
        with pytest.raises(ValueError, match="grad has shape"):
            torch.autograd.grad(product.sum(), (v, x, y), create_graph=create_graph)
