"""`laplex.gram`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gpytorch
import numpy as np
import torch
from torch import Tensor

from laplex import gram

from .kernels import Draws, weights

Calls = Iterator[tuple[str, Callable[[], Any]]]
Arguments = dict[str, Any]
FORMS = ("real", "cosine", "phases", "scaled", "everything", "sum", "noiseless", "batch", "ties")


def arguments(form: str, draw: Draws, dtype: torch.dtype = torch.float64, n: int = 14) -> Arguments:
    """Of a `LaplaceGram`, tensors throughout; for a sum, of each term under its number."""
    batch = (3,) if form == "batch" else ()
    found: Arguments = {
        "anchors": (3 * draw(*batch, n)).to(dtype),
        "lengthscale": draw(*batch).exp(),
        "variance": draw(*batch).exp(),
        "noise": draw(n).exp() / 5,
    }
    if form in ("cosine", "everything", "batch"):
        found["frequency"] = draw(*batch)
    if form in ("phases", "everything", "batch"):
        found["phase"] = draw(n).to(dtype)
    if form in ("scaled", "everything"):
        found["scale"] = draw(n).to(dtype)
    if form == "noiseless":
        del found["noise"]
    if form == "sum":
        found["second lengthscale"], found["second frequency"] = draw().exp(), draw()
    if form == "ties":
        found["anchors"] = found["anchors"].round()
    return found


def make(given: Arguments) -> gram.LaplaceGram:
    if "second lengthscale" not in given:
        return gram.LaplaceGram(**given)
    terms = [
        gram.Term(given["lengthscale"], given["variance"]),
        gram.Term(given["second lengthscale"], 0.5, given["second frequency"]),
    ]
    return gram.LaplaceGram(given["anchors"], terms=terms, noise=given["noise"])


#: What has derivatives: functions of a Gram and values [..., n].
RESULTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "matvec": lambda A, v: A.matvec(v),
    "solve": lambda A, v: A.solve(v),
    "color": lambda A, v: A.color(v),
    "color, transposed": lambda A, v: A.color(v, transpose=True),
    "whiten": lambda A, v: A.whiten(v),
    "whiten, transposed": lambda A, v: A.whiten(v, transpose=True),
    "logdet": lambda A, v: A.logdet(),
    "log_prob": lambda A, v: A.log_prob(v),
    "sample": lambda A, v: A.sample((2,), generator=torch.Generator().manual_seed(0)),
    "conditional mean": lambda A, v: A.condition(torch.arange(0, 14, 2), v[..., ::2]).mean,
    "conditional variance": lambda A, v: A.condition(torch.arange(0, 14, 2), v[..., ::2]).variance,
    "dense": lambda A, v: A.to_dense(),
    "diagonal": lambda A, v: A.diagonal(),
}


def gradients(given: Arguments, values: Tensor, of: Callable[[Any, Tensor], Tensor]) -> Any:
    leaves = {name: each.detach().requires_grad_() for name, each in given.items()}
    values = values.detach().requires_grad_()
    result = of(make(leaves), values)
    inputs = [values, *leaves.values()]
    options: Any = {"allow_unused": True, "materialize_grads": True}
    once = torch.autograd.grad(result, inputs, weights(result), create_graph=True, **options)
    found = {"": result} | dict(zip(("by values", *leaves), once, strict=True))
    loss = sum(each.square().sum() for each in once)
    twice = torch.autograd.grad(loss, inputs, **options)
    return found | dict(
        zip((f"{name} twice" for name in ("by values", *leaves)), twice, strict=True)
    )


def first_gradients(given: Arguments, values: Tensor, of: Callable[[Any, Tensor], Tensor]) -> Any:
    leaves = {name: each.detach().requires_grad_() for name, each in given.items()}
    result = of(make(leaves), values)
    result.backward(weights(result))
    return {"": result} | {name: each.grad for name, each in leaves.items()}


def gram_calls() -> Calls:
    draw = Draws(20)
    for form in FORMS:
        given = arguments(form, draw)
        single = arguments(form, draw, torch.float32)
        values = draw(2, 1, 14) if form == "batch" else draw(2, 14)
        for name, of in RESULTS.items():
            yield (
                f"{form}, {name}, unrecorded",
                lambda of=of, given=given, v=values: of(make(given), v),
            )
            yield (
                f"{form}, {name}, float32",
                lambda of=of, given=single, v=values: first_gradients(given, v.float(), of),
            )
            derive = first_gradients if name == "conditional variance" else gradients
            yield (
                f"{form}, {name}",
                partial(derive, given, values, of),
            )
        yield f"{form}, others", lambda given=given, v=values: of_gram(make(given), v)
        if form in ("real", "noiseless", "ties", "cosine", "sum"):
            points, rows = draw(5), values
            yield f"{form}, predict", partial(predicted, given, rows, points)
    given = arguments("noiseless", draw)
    yield "precision", lambda: first_gradients(given, draw(14), lambda A, v: A.precision()[1])
    for n, form in itertools.product((1, 2, 50, 3000), ("real", "cosine", "sum")):
        given, values = arguments(form, draw, n=n), draw(n)
        yield (
            f"n = {n}, {form}",
            lambda given=given, v=values: first_gradients(given, v, lambda A, v: A.log_prob(v)),
        )
    x, y = np.arange(12), draw(12).numpy()
    yield "arrays", lambda: gram.LaplaceGram(x, lengthscale=2.0, noise=0.1).log_prob(y)
    yield (
        "numbers",
        lambda: gram.LaplaceGram(
            draw(20), lengthscale=2.0, variance=1.5, frequency=3.0, noise=0.1
        ).logdet(),
    )


def of_gram(A: Any, values: Tensor) -> Any:
    shape = values.shape
    columns = values.reshape(-1, shape[-1]).mT
    both = A + A * 0.5
    given = A.condition(torch.arange(5), values[..., :5])
    draws = torch.Generator().manual_seed(1)
    found = {
        "columns": A @ columns,
        "rows": columns.mT @ A,
        "sum": both.logdet() if A.noise is not None else both.to_dense(),
        "float32": A.to(torch.float32).detach().log_prob(values.float()),
        "latent variance": given.latent_variance,
        "conditional sample": given.sample((2,), generator=draws),
        "array": np.asarray(A),
        "text": repr(A),
        "shape": tuple(A.shape),
    }
    if not A.shape[:-2]:
        found["scipy"] = A.to_scipy() @ columns.numpy()
        found["scipy inverse"] = A.to_scipy(inverse=True) @ columns.numpy()
    linear = A.to_linear_operator()
    found["linear operator"] = linear @ columns
    found["its logdet"] = linear.logdet()
    found["its solution"] = linear.solve(columns)
    found["it with a diagonal"] = linear.add_jitter(0.1).logdet()
    return found


def predicted(given: Arguments, values: Tensor, points: Tensor) -> Any:
    if "noise" in given:  # one number, which goes for every point
        given = given | {"noise": given["noise"][:1]}
    found = make(given).predict(points, values)
    sample = found.sample((2,), generator=torch.Generator().manual_seed(2))
    return {"mean": found.mean, "variance": found.variance, "sample": sample}


def gaussian_processes() -> Calls:
    rng = np.random.default_rng(21)
    X = rng.uniform(0, 10, (60, 1))
    y = np.sin(X[:, 0]) + 0.3 * rng.standard_normal(60)
    settings: dict[str, Arguments] = {
        "plain": {},
        "normalised": {"normalize_y": True},
        "restarts": {"n_restarts": 1, "random_state": 0},
        "oscillating": {"frequency": 1.0},
        "not fitted": {"optimizer": None, "lengthscale": 2.0, "variance": 1.0, "noise": 0.1},
    }
    for name, options in settings.items():
        yield f"regressor, {name}", partial(regressed, options, X, y)
    kernel = gpytorch.kernels.ScaleKernel
    kernels: dict[str, Callable[[], Any]] = {
        "real": lambda: kernel(gram.LaplaceKernel()),
        "oscillating": lambda: kernel(gram.LaplaceKernel(oscillates=True)),
        "sum": lambda: gram.LaplaceSumKernel(
            kernel(gram.LaplaceKernel()), kernel(gram.LaplaceKernel(oscillates=True))
        ),
    }
    for name, each in kernels.items():
        yield f"GPyTorch, {name}", lambda each=each: gpytorch_process(each(), X, y)


def regressed(options: Arguments, X: Any, y: Any) -> Any:
    model = gram.LaplaceGPRegressor(**options).fit(X, y)
    points = np.linspace(-1, 11, 7)[:, None]
    mean, std = model.predict(points, return_std=True)
    value, slope = model.log_marginal_likelihood(
        np.zeros(4 if "frequency" in options else 3), eval_gradient=True
    )
    return {
        "likelihood": model.log_marginal_likelihood_value_,
        "mean": mean,
        "std": std,
        "covariance": model.predict(points, return_cov=True)[1],
        "with noise": model.predict(points, return_std=True, include_noise=True)[1],
        "samples": model.sample_y(points, n_samples=2),
        "value": value,
        "slope": slope,
        "score": model.score(X, y),
    }


class Process(gpytorch.models.ExactGP):
    def __init__(self, x: Tensor, y: Tensor, likelihood: Any, kernel: Any) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), kernel

    def forward(self, x: Tensor) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def gpytorch_process(kernel: Any, X: Any, y: Any) -> Any:
    x, values = torch.from_numpy(X[:, 0]), torch.from_numpy(y)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = Process(x, values, likelihood, kernel).double()
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = -marginal(model(x), values)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    model.eval()
    likelihood.eval()
    prediction = likelihood(model(torch.linspace(-1, 11, 7, dtype=torch.float64)))
    return {
        "losses": losses,
        "mean": prediction.mean,
        "variance": prediction.variance,
        "parameters": list(model.parameters()),
    }


def covariance_models() -> Calls:
    images = Draws(22)(40, 6, 5).cumsum(-1).float()
    for heads, phased, options in itertools.product(
        (1, 3),
        (True, False),
        ({}, {"batch_size": 10, "probes": 2}, {"likelihood_steps": 2}),
    ):
        yield (
            f"heads={heads}, phased={phased}, {options}",
            (partial(modelled, images, heads, phased, options)),
        )


def modelled(images: Tensor, heads: int, phased: bool, options: Arguments) -> Any:
    model = gram.LaplaceCovariance(30, heads=heads, phased=phased)
    history = model.fit(images, steps=2, **options)
    missing = torch.zeros(6, 5, dtype=torch.bool)
    missing[2:4] = True
    model.zero_grad()
    found = {
        "initial": gram.LaplaceCovariance(30, heads=heads, phased=phased).state_dict(),
        "history": history,
        "state": {name: each.clone() for name, each in model.state_dict().items()},
        "error": model.relative_error(images),
        "log density": model.log_prob(images[:5]),
        "sample": model.sample(3, generator=torch.Generator().manual_seed(3)),
        "inpainted": model.inpaint(images[:3], missing),
        "denoised": model.denoise(images[:3], variance=0.5),
        "neighbours": model.neighbours(12, k=4),
        "covariance": model.covariance(),
        "noise": model.noise,
    }
    model.log_prob(images[:5]).sum().backward()
    return found | {f"by {name}": each.grad for name, each in model.named_parameters()}


AREAS = {
    "gram": gram_calls,
    "Gaussian processes": gaussian_processes,
    "covariance models": covariance_models,
}
