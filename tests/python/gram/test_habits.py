"""`LaplaceGram` as users of NumPy, SciPy and torch expect a matrix to be, and its factor's age."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import laplex
from laplex.gram import LaplaceGram, Term, gaussian
from laplex.numpy.checks import MAX_ARRAY_ENTRIES

D = torch.float64
EPSILON = torch.finfo(D).eps
N = 8


# Small matrices; see conftest.py.
pytestmark = pytest.mark.usefixtures("one_thread")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def arguments() -> dict[str, torch.Tensor]:
    """Everything that a term has; the noise keeps condition numbers below 100."""
    return {
        "lengthscale": torch.tensor(0.7, dtype=D),
        "variance": torch.tensor(1.3, dtype=D),
        "frequency": torch.tensor(2.0, dtype=D),
        "phase": 6 * uniform(N, seed=1),
        "scale": draw(N, seed=2),
        "noise": uniform(N, seed=3) + 0.1,
    }


def same(one: LaplaceGram, two: LaplaceGram) -> None:
    """Bit for bit: of the same numbers, each by our own code."""
    assert torch.equal(one.to_dense(), two.to_dense())
    assert torch.equal(one.logdet(), two.logdet())


# --- NumPy ----------------------------------------------------------------------------------------


def test_arrays_stand_for_tensors():
    x, given = 3 * uniform(N), arguments()
    gram = LaplaceGram(x, **given)
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    found = LaplaceGram(x.numpy(), **arrays)
    same(found, gram)
    same(LaplaceGram(x.numpy(), terms=[Term(**{k: v for k, v in arrays.items() if k != "noise"})],
                     noise=arrays["noise"]), gram)  # fmt: skip
    v = draw(3, N)
    for name in ("solve", "matvec", "color", "whiten", "log_prob"):
        result = getattr(found, name)(v.numpy())
        assert isinstance(result, torch.Tensor)
        assert torch.equal(result, getattr(gram, name)(v))
    observed = np.array([1, 4, 2])
    for index in (observed, observed.astype(np.uint8), observed.astype(np.int32)):
        mean = found.condition(index, v.numpy()[:, :3]).mean
        assert torch.equal(mean, gram.condition(torch.tensor([1, 4, 2]), v[:, :3]).mean)
    mask = np.arange(N) < 5
    assert torch.equal(
        found.condition(mask, v.numpy()[:, :5]).variance,
        gram.condition(torch.arange(5), v[:, :5]).variance,
    )
    plain = LaplaceGram(x, noise=0.1)
    new = np.array([0.5, 2.5])
    assert torch.equal(
        plain.predict(new, v.numpy()).mean, plain.predict(torch.from_numpy(new), v).mean
    )


def test_arrays_are_copied():
    """Those too that torch cannot share: read-only, backwards, of another byte order."""
    x = np.linspace(0, 1, N)
    gram = LaplaceGram(x, noise=np.full(N, 0.1))
    before = gram.logdet()
    x[:] = 0
    assert torch.equal(gram.logdet(), before)
    x = np.linspace(0, 1, N)
    x.setflags(write=False)
    for awkward in (x, x[::-1], x.astype(">f8"), np.repeat(x, 2)[::2]):
        other = LaplaceGram(awkward, noise=0.1)
        assert torch.equal(other.anchors, torch.tensor(awkward.tolist(), dtype=D))
        other.solve(awkward)


def test_integers():
    gram = LaplaceGram(np.arange(10), lengthscale=3, noise=np.ones(10, np.int8))
    same(gram, LaplaceGram(torch.arange(10.0, dtype=D), lengthscale=3.0, noise=1.0))
    ones = torch.ones(10, dtype=D)
    assert torch.equal(gram.solve(np.ones(10, int)), gram.solve(ones))
    assert torch.equal(gram @ np.eye(10, dtype=int), gram @ torch.eye(10, dtype=D))
    assert torch.equal(
        gram.predict(np.array([4]), ones).mean,
        gram.predict(torch.tensor([4.0], dtype=D), ones).mean,
    )
    single = LaplaceGram(np.arange(10, dtype=np.float32), noise=1)
    assert single.solve(np.arange(10)).dtype is torch.float32
    assert single.predict(np.arange(3), np.arange(10)).mean.dtype is torch.float32
    with pytest.raises(ValueError, match="anchors has the integer 9007199254740993, but float64"):
        LaplaceGram(np.array([2**53 + 1]))
    with pytest.raises(ValueError, match="targets has the integer 16777217, but float32"):
        single.predict(np.array([2**24 + 1]), np.arange(10))
    same(gram, LaplaceGram(torch.arange(10), lengthscale=3.0, noise=1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LaplaceGram("0.0"), "anchors must be a torch tensor or a NumPy array, got str"),
        (lambda: LaplaceGram(np.ones(2, np.float16)), "anchors must be float32 or float64, got fl"),
        (lambda: LaplaceGram(np.ones(2, complex)), "anchors must be float32 or float64, got compl"),
        (lambda: LaplaceGram(np.array(["a"])), "anchors has dtype <U1"),
        (lambda: LaplaceGram(np.ones(2), noise=True), "noise must be a float"),
        (lambda: LaplaceGram(np.ones(2), phase={1.0}), "phase must be a torch tensor or a"),
        (lambda: LaplaceGram(np.ones(2), lengthscale="a"), "lengthscale must be a float"),
        (lambda: LaplaceGram(np.ones(2)).solve(np.ones(2, np.float32)), "values are torch.float32"),
        (lambda: LaplaceGram(np.ones(2)).predict({1.0}, np.ones(2)), "targets must be a torch"),
    ],
)
def test_what_is_no_array_is_refused(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_products_from_both_sides():
    gram = LaplaceGram(3 * uniform(2, N), noise=0.1)
    dense = gram.to_dense()
    v = draw(2, N, 3)
    # A sum of N products, of numbers up to the largest entry and with our error, a unit or two.
    near = {"rtol": 0, "atol": 16 * N * EPSILON}
    for right, left in ((v[0, :, 0], v[0, :, 0]), (v[0], v[0].mT), (v, v.mT)):
        for cast in (torch.as_tensor, np.asarray):
            torch.testing.assert_close(gram @ cast(right), dense @ right, **near)
            torch.testing.assert_close(cast(left) @ gram, left @ dense, **near)
    with pytest.raises(TypeError, match="unsupported operand"):
        gram @ "a"
    with pytest.raises(TypeError, match="does not support ufuncs"):
        np.exp(gram)


def test_as_an_array():
    gram = LaplaceGram(uniform(2, N), **{k: v for k, v in arguments().items() if k != "phase"})
    assert np.array_equal(np.asarray(gram), gram.to_dense().numpy())
    assert np.asarray(gram, np.float32).dtype == np.float32
    assert np.asarray(gram.to(torch.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="leave out copy=False"):
        np.asarray(gram, copy=False)
    with pytest.raises(RuntimeError, match=r"use detach\(\)"):
        np.asarray(LaplaceGram(uniform(N).requires_grad_()))
    large = LaplaceGram(torch.arange(MAX_ARRAY_ENTRIES**0.5 + 1, dtype=D))
    with pytest.raises(MemoryError, match="multiply with A @ v, or call to_dense"):
        np.asarray(large)


# --- SciPy ----------------------------------------------------------------------------------------


def test_scipy():
    x, v = 3 * uniform(N), draw(N, 2).numpy()
    gram = LaplaceGram(x, **arguments())
    dense = gram.to_dense().numpy()
    condition = np.linalg.cond(dense)
    # What is read off a factor or a dense solver is off by EPSILON * cond * n of its size.
    near = {"rtol": 0, "atol": 16 * N * condition * EPSILON * np.abs(v).max()}
    for inverse, matrix in ((False, dense), (True, np.linalg.inv(dense))):
        linear = gram.to_scipy(inverse=inverse)
        assert isinstance(linear, scipy.sparse.linalg.LinearOperator)
        assert (linear.shape, linear.dtype) == ((N, N), np.float64)
        for again in (linear, pickle.loads(pickle.dumps(linear)), copy.deepcopy(linear)):
            for each in (again, again.T, again.H):
                np.testing.assert_allclose(each @ v, matrix @ v, **near)
                np.testing.assert_allclose(each @ v[:, 0], matrix @ v[:, 0], **near)
                np.testing.assert_allclose(each @ v[:, :1], matrix @ v[:, :1], **near)
            np.testing.assert_allclose(again @ (v * 1j), matrix @ v * 1j, **near)
    found, status = scipy.sparse.linalg.cg(
        gram.to_scipy(), v[:, 0], M=gram.to_scipy(inverse=True), rtol=1e-12, maxiter=3
    )
    assert status == 0  # an exact preconditioner leaves one step, and one for its rounding
    np.testing.assert_allclose(
        found, np.linalg.solve(dense, v[:, 0]), rtol=0, atol=1e-11 * condition
    )
    assert gram.to(torch.float32).to_scipy().dtype == np.float32
    recording = LaplaceGram(x.clone().requires_grad_(), noise=0.1).to_scipy()
    assert np.isfinite(recording @ v).all()
    with pytest.raises(ValueError, match=r"holds a batch of shape \(2,\), but a SciPy"):
        LaplaceGram(uniform(2, N)).to_scipy()


# --- torch ----------------------------------------------------------------------------------------


def test_sums_and_multiples():
    x, given = 3 * uniform(N), arguments()
    one, two = LaplaceGram(x, **given), LaplaceGram(x.clone(), lengthscale=0.2, noise=0.3)
    total = one + two
    assert len(total.terms) == 2
    # Two terms, each off by units of its size.
    torch.testing.assert_close(
        total.to_dense(), one.to_dense() + two.to_dense(), rtol=8 * EPSILON, atol=8 * EPSILON
    )
    bare = LaplaceGram(x, lengthscale=0.2)
    assert (bare + bare).noise is None
    assert torch.equal((bare + two).noise, two.noise)
    assert torch.equal((two + bare).noise, two.noise)
    for multiple in (2.5 * one, one * 2.5, np.float64(2.5) * one, one * torch.tensor(2.5)):
        torch.testing.assert_close(
            multiple.to_dense(), 2.5 * one.to_dense(), rtol=8 * EPSILON, atol=8 * EPSILON
        )
    batch = LaplaceGram(3 * uniform(2, N), noise=0.1)
    factors = torch.tensor([1.0, 3.0], dtype=D)
    torch.testing.assert_close(
        (batch * factors).to_dense(),
        factors[:, None, None] * batch.to_dense(),
        rtol=8 * EPSILON,
        atol=8 * EPSILON,
    )


def test_sums_hand_on_gradients():
    """Also where both have anchors of their own that are equal: each gets half."""
    x, y = uniform(N).requires_grad_(), uniform(N).requires_grad_()
    v = draw(N)
    total = LaplaceGram(x, lengthscale=0.2, noise=0.1) + 2.0 * LaplaceGram(y, noise=0.2)
    together = LaplaceGram(x, terms=[Term(0.2), Term(variance=2.0)], noise=0.5)
    halves = torch.autograd.grad(total.log_prob(v), (x, y))
    (whole,) = torch.autograd.grad(together.log_prob(v), x)
    scale = float(whole.abs().max())
    torch.testing.assert_close(sum(halves), whole, rtol=0, atol=64 * N * EPSILON * scale)


def test_what_is_not_added_or_multiplied():
    x = uniform(N)
    gram = LaplaceGram(x, noise=0.1)
    for other in (1.0, torch.eye(N, dtype=D), np.eye(N)):
        for add in (lambda one, two: one + two, lambda one, two: two + one):
            with pytest.raises(TypeError, match=r"can only be added to another LaplaceGram, got"):
                add(gram, other)
    for other in (x + 1, x[:5], x.float()):
        with pytest.raises(ValueError, match="have different anchors"):
            gram + LaplaceGram(other)
    for factor in (-1.0, 0.0, float("inf"), torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match="multiplied by positive, finite numbers"):
            gram * factor
    with pytest.raises(TypeError, match="unsupported operand"):
        gram * object()


def test_transposes_are_itself():
    gram = LaplaceGram(uniform(2, N), noise=0.1)
    assert gram.T is gram
    assert gram.mT is gram


def test_to_and_detach():
    leaves = {name: tensor.requires_grad_() for name, tensor in arguments().items()}
    gram = LaplaceGram((3 * uniform(N)).requires_grad_(), **leaves)
    assert gram.requires_grad
    single = gram.to(torch.float32)
    assert (single.dtype, gram.dtype) == (torch.float32, D)
    assert single.terms[0].phase.dtype is torch.float32
    assert single.terms[0].lengthscale.dtype is D  # which keeps its digits
    single.logdet().backward()
    assert all(leaf.grad is not None for leaf in leaves.values())
    alone = gram.detach()
    assert not alone.requires_grad
    assert alone.anchors.data_ptr() == gram.anchors.data_ptr()
    same(alone, gram.to("cpu", D).detach())
    same(alone.to(torch.zeros(1, dtype=D)), alone)
    assert LaplaceGram(uniform(N), noise=0.5).detach().terms[0].lengthscale == 1.0
    with pytest.raises(TypeError, match="dtype must be torch"):
        gram.to(torch.int64)
    with pytest.raises(NotImplementedError, match="anchors is on meta"):
        gram.to("meta")


# --- a factor is never older than its tensors ----------------------------------------------------


def write_to(tensor: torch.Tensor, how: str) -> None:
    """Triples a tensor: by torch, which counts it, or so that it does not."""
    if how == "in place":
        with torch.no_grad():
            tensor.mul_(3)
    elif how == "data":
        tensor.data.mul_(3)
    elif how == "numpy":
        shared = tensor.detach().numpy()
        shared *= 3
    else:
        tensor.data = 3 * tensor.data


HOWS = ["in place", "data", "numpy", "exchanged"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["anchors", *arguments()])
def test_factors_follow_their_tensors(name: str, how: str) -> None:
    given = {"anchors": uniform(N), **arguments()}
    gram, v = LaplaceGram(**given), draw(N)
    whole = (
        LaplaceGram(given["anchors"], noise=given["noise"])
        if name in ("anchors", "noise")
        else None
    )
    gram.logdet()
    write_to(given[name], how)
    new = LaplaceGram(**given)
    assert torch.equal(gram.logdet(), new.logdet())
    assert torch.equal(gram.solve(v), new.solve(v))
    assert torch.equal(gram @ v, new @ v)
    assert torch.equal(gram.color(v), new.color(v))
    if whole is not None:
        before = whole.predict(uniform(3), v)
        mean = before.mean
        assert torch.equal(before.mean, mean)
        write_to(given[name], how)
        for result in ("mean", "variance", "latent_variance"):
            with pytest.raises(RuntimeError, match="make it again"):
                getattr(before, result)
        with pytest.raises(RuntimeError, match="make it again"):
            before.sample()


@pytest.mark.parametrize("how", HOWS)
def test_the_parameter_of_the_issue(how: str) -> None:
    parameter = torch.nn.Parameter(uniform(50))
    gram = LaplaceGram(parameter, noise=0.1)
    gram.logdet()
    write_to(parameter, how)
    assert torch.equal(gram.logdet(), LaplaceGram(parameter, noise=0.1).logdet())


def test_a_factor_is_kept_while_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    factorise = gaussian.Gram

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(1)
        return factorise(*arguments, **options)

    monkeypatch.setattr(gaussian, "Gram", counted)
    x, given, v = uniform(N), arguments(), draw(N)
    gram = LaplaceGram(x, **given)
    gram.logdet()
    gram.solve(v)
    gram.log_prob(v)
    gram.anchors = x.clone()  # another tensor of the same numbers
    gram.sample()
    assert len(made) == 1
    given["noise"].data[3] += 1
    gram.logdet()
    assert len(made) == 2
    with torch.inference_mode():
        inside = LaplaceGram(uniform(N), noise=0.1)
        inside.logdet()
        inside.solve(uniform(N))
    assert len(made) == 3


@pytest.mark.parametrize("name", ["anchors", "noise"])
def test_writing_between_forward_and_backward_raises_as_in_torch(name: str) -> None:
    given = {"anchors": uniform(N), "noise": uniform(N) + 0.1}
    given[name].requires_grad_()
    value = LaplaceGram(**given).log_prob(draw(N))
    with torch.no_grad():
        given[name].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_recorded_value_has_the_gradient_of_its_numbers():
    """A parameter of which the graph keeps a function alone may be written to, as in torch."""
    x, v = uniform(N), draw(N)
    lengthscale = torch.tensor(0.5, dtype=D, requires_grad=True)
    gram = LaplaceGram(x, lengthscale=lengthscale, noise=0.1)
    expected = torch.autograd.grad(gram.log_prob(v), lengthscale)
    value = gram.log_prob(v)
    lengthscale.data.mul_(3)
    gram.logdet()  # makes another factor
    assert torch.equal(torch.autograd.grad(value, lengthscale)[0], expected[0])


def test_what_is_made_of_a_gram_follows_too():
    x, noise, v = uniform(N), uniform(N) + 0.1, draw(N)
    gram = LaplaceGram(x, noise=noise)
    operator = gram.to_linear_operator()
    operator.solve(v)
    scipys = gram.to_scipy(inverse=True)
    scipys @ v.numpy()
    noise.data.mul_(3)
    expected = LaplaceGram(x, noise=noise).solve(v)
    assert torch.equal(operator.solve(v), expected)
    assert torch.equal(torch.from_numpy(scipys @ v.numpy()), expected)
    plan = laplex.LaplaceOperator(x)
    before = plan @ v
    x.data.mul_(3)
    assert not torch.equal(plan @ v, before)
    assert torch.equal(plan @ v, laplex.LaplaceOperator(x.clone()) @ v)


def test_pickles_and_copies():
    gram, v = LaplaceGram(uniform(N), **arguments()), draw(N)
    conditional = gram.condition(torch.arange(3), v[:3])
    gram.logdet()
    for again in (pickle.loads(pickle.dumps(gram)), copy.deepcopy(gram), copy.copy(gram)):
        same(again, gram)
    for other in (pickle.loads(pickle.dumps(conditional)), copy.deepcopy(conditional)):
        assert torch.equal(other.mean, conditional.mean)


@pytest.mark.parametrize("first", ["mean", "sample"])
def test_a_conditional_keeps_its_observations(first: str) -> None:
    A = LaplaceGram(torch.arange(5, dtype=D) / 5, noise=0.1)
    values = torch.ones(2, dtype=D, requires_grad=True)
    observed = torch.tensor([0, 1])
    expected = A.condition(observed, torch.ones(2, dtype=D)).mean
    given = A.condition(observed, values)
    if first == "mean":
        assert torch.equal(given.mean, expected)
    values.data.mul_(50)
    assert torch.equal(given.mean, expected)
    # Samples have the mean of the observations that were passed: 4 deviations of 4000 samples.
    samples = given.sample(4000, generator=torch.Generator().manual_seed(0)).detach()
    deviation = given.variance.detach().sqrt() / 4000**0.5
    assert ((samples.mean(0) - expected).abs() < 4 * deviation).all()
    (slope,) = torch.autograd.grad(given.mean.sum(), values)
    assert slope.abs().sum() > 0


# --- torch's own habits ---------------------------------------------------------------------------


class Model(torch.nn.Module):
    """A module that holds a Gram of its parameters, some of them without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        one = torch.ones((), dtype=D)
        self.noise, self.lengthscale = torch.nn.Parameter(one), torch.nn.Parameter(one.clone())
        self.prior, self.level = torch.nn.Parameter(one.clone()), torch.nn.Parameter(one.clone())
        self.columns = torch.nn.Parameter(draw(N, 2))
        self.trend = torch.nn.Linear(1, 1, dtype=D)
        self.gram = LaplaceGram(
            uniform(N),
            lengthscale=self.lengthscale,
            noise=self.noise,
            basis=self.columns,
            prior=self.prior,
            mean=self.level,
        ) + LaplaceGram(uniform(N), mean=self.along)

    def along(self, x: torch.Tensor) -> torch.Tensor:
        return self.trend(x[..., None])[..., 0]

    def forward(self) -> torch.Tensor:
        return self.gram.log_prob(draw(N))


def test_deep_copies_of_modules():
    """The copy's Gram is of the copy's parameters; it learns alone."""
    model = Model()
    before = model()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(), before)
    twin().backward()
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None, name
        assert dict(model.named_parameters())[name].grad is None
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert torch.equal(model(), before)
    assert not torch.equal(twin(), before)


def test_integers_in_tensors():
    x, v = torch.arange(N), draw(N)
    found, known = LaplaceGram(x, noise=0.1), LaplaceGram(x.double(), noise=0.1)
    same(found, known)
    assert torch.equal(found.predict(x[:3], v).mean, known.predict(x[:3].double(), v).mean)
    assert torch.equal(found.log_prob(x), known.log_prob(x.double()))
    with pytest.raises(ValueError, match="has the integer 9007199254740993"):
        LaplaceGram(torch.tensor([2**53 + 1]))


@pytest.mark.parametrize("number", [1.5, np.float64(1.5), torch.tensor(1.5, dtype=D)])
def test_one_target(number):
    with pytest.raises(ValueError, match=r"targets must have shape .* pass \[1\.5\]"):
        LaplaceGram(uniform(N)).predict(number, draw(N))


def test_anchors_as_a_column():
    """scikit-learn's shape is n matrices of one anchor each."""
    column = uniform(N, 1)
    with pytest.raises(ValueError, match=r"8 matrices of one anchor each: .* anchors"):
        LaplaceGram(column, noise=0.1).log_prob(draw(N))
    with pytest.raises(ValueError, match=r"8 matrices of one anchor each: .* anchors"):
        LaplaceGram(column, noise=uniform(N))
