"""Separate the rotation of a star, its granulation and a drift, in measurements with error bars.

    python examples/light_curve.py [--nights 150] [--out DIR]

The light curve is simulated: some measurements in each clear night of a season, each with an error
bar of its own, of a star that rotates, whose surface boils, and of an instrument that drifts. The
model is a Rotation and an SHO term, the error bars and one more variance as noise, and a parabola
with unknown coefficients as basis. The script finds the maximum of the posterior by exact
gradients, predicts each component alone, and draws the posterior of the period by importance
sampling. It writes light_curve.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from laplex.gram import SHO, LaplaceGram, Rotation, polynomial

#: The parameters, and their true values: times in days, fluxes in parts per thousand.
TRUTH = {
    "sigma": 4.0,
    "period": 11.3,
    "Q0": 3.0,
    "dQ": 1.0,
    "f": 0.4,
    "granulation sigma": 0.7,
    "granulation rho": 1.5,
    "jitter": 0.2,
}
#: The basis of the drift: Legendre polynomials of degree 0, 1 and 2 on the first 100 days.
PARABOLA = polynomial(2, 0.0, 100.0)
#: Priors of the logarithms are normal, of this standard deviation, around a guess.
WIDTH = 1.5


def covariance(times: Tensor, errors: Tensor, logarithms: Tensor) -> LaplaceGram:
    """Return the covariances of the measurements for logarithms [..., 8] of the parameters."""
    sigma, period, q0, dq, f, own, rho, jitter = logarithms.exp().unbind(-1)
    terms = Rotation(sigma, period, q0, dq, f) + SHO(sigma=own, rho=rho, Q=0.5**0.5)
    noise = errors.square() + jitter[..., None].square()
    return LaplaceGram(times, terms=terms, noise=noise, basis=PARABOLA)


def simulated(nights: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the times, the fluxes and their standard errors [n]."""
    clear = torch.nonzero(torch.rand(nights) < 0.7)[:, 0].double()
    times = (clear[:, None] + 0.35 * torch.rand(len(clear), 10, dtype=torch.float64)).flatten()
    times = times.sort().values
    errors = 0.3 * torch.exp(0.4 * torch.randn(len(times), dtype=torch.float64))
    logarithms = torch.tensor(list(TRUTH.values()), dtype=torch.float64).log()
    model = covariance(times, errors, logarithms)
    star = LaplaceGram(times, terms=model.terms, noise=model.noise).sample()
    drift = PARABOLA(times) @ torch.tensor([-0.2, -2.5, 0.7], dtype=torch.float64)
    return times, star + drift, errors


def log_posterior(data: tuple[Tensor, Tensor, Tensor], guess: Tensor, at: Tensor) -> Tensor:
    """Return the log posteriors [...] of logarithms [..., 8], up to a constant."""
    times, flux, errors = data
    prior = -0.5 * ((at - guess) / WIDTH).square().sum(-1)
    return covariance(times, errors, at).log_prob(flux) + prior


def maximised(data: tuple[Tensor, Tensor, Tensor], guess: Tensor) -> tuple[Tensor, float]:
    """Find the maximum of the posterior from a guess by L-BFGS, and its value."""
    logarithms = guess.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [logarithms], max_iter=80, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -log_posterior(data, guess, logarithms) / len(data[0])
        value.backward()
        return value

    optimiser.step(loss)
    return logarithms.detach(), float(log_posterior(data, guess, logarithms.detach()))


def importance_sampled(
    data: tuple[Tensor, Tensor, Tensor], guess: Tensor, best: Tensor, count: int = 1000
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw logarithms [count, 8] with weights [count], and return the errors [8] at the maximum.

    The proposal is Student's t distribution with the curvature of the posterior at its maximum.
    """
    hessian = torch.autograd.functional.hessian(lambda at: -log_posterior(data, guess, at), best)
    root = torch.linalg.cholesky(torch.linalg.inv(hessian))
    freedom, k = 6.0, len(best)
    white = torch.randn(count, k, dtype=torch.float64)
    chi = torch.distributions.Chi2(torch.tensor(freedom, dtype=torch.float64)).sample((count, 1))
    white = white * (freedom / chi).sqrt()
    draws = best + white @ root.mT
    proposal = -0.5 * (freedom + k) * torch.log1p(white.square().sum(-1) / freedom)
    weights = torch.softmax(log_posterior(data, guess, draws) - proposal, 0)
    return draws, weights, root.square().sum(-1).sqrt()


def main() -> None:
    """Simulate, fit, print results and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nights", type=int, default=150, help="length of the season (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the figure (default: current folder)"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    data = times, flux, errors = simulated(options.nights)
    print(f"{len(times)} simulated measurements")

    start = time.perf_counter()
    spread, error = float(flux.std()), float(errors.median())
    fits = []
    for period in (4.0, 8.0, 16.0, 32.0):
        guess = [spread, period, 2.0, 1.0, 0.5, 0.3 * spread, 1.0, error]
        logarithms = torch.tensor(guess, dtype=torch.float64).log()
        fits.append((logarithms, *maximised(data, logarithms)))
        print(f"from {period:4.1f} d: period {fits[-1][1][1].exp():.2f} d, {fits[-1][2]:.2f}")
    guess, best, _ = max(fits, key=lambda fit: fit[2])
    middle = time.perf_counter()
    draws, weights, deviations = importance_sampled(data, guess, best)
    stop = time.perf_counter()
    print(f"{middle - start:.1f} s for the four fits, {stop - middle:.1f} s for the posterior")
    for (name, true), value, deviation in zip(TRUTH.items(), best, deviations, strict=True):
        print(f"{name:18s} {true:6.2f}, fitted {value.exp():6.2f} ± {deviation:.0%}")
    periods = draws[:, 1].exp()
    mean = float(weights @ periods)
    deviation = float((weights @ (periods - mean).square()).sqrt())
    effective = 1 / float(weights.square().sum())
    print(f"posterior of the period: {mean:.2f} ± {deviation:.2f} d, {TRUTH['period']} d is true")
    print(f"{effective:.0f} effective samples of {len(weights)}")

    model = covariance(times, errors, best)
    grid = torch.linspace(float(times[0]) - 2, float(times[-1]) + 8, 2000, dtype=torch.float64)
    figure = Figure(figsize=(11, 8), layout="constrained")
    total, parts, posterior = figure.subplots(3, 1, height_ratios=[1.3, 1.3, 1])
    with torch.no_grad():
        whole = model.predict(grid, flux)
        band = 2 * whole.variance.sqrt()
        total.errorbar(times, flux, errors, fmt=".", color="black", ms=2, lw=0.5, label="measured")
        total.plot(grid, whole.mean, label="all components, ±2 standard deviations")
        total.fill_between(grid, whole.mean - band, whole.mean + band, alpha=0.3)
        for term, label in ((0, "rotation"), (1, "granulation"), ("basis", "drift")):
            part = model.predict(grid, flux, term=term)
            band = 2 * part.variance.sqrt()
            parts.plot(grid, part.mean, label=label)
            parts.fill_between(grid, part.mean - band, part.mean + band, alpha=0.3)
    total.set(ylabel="flux / ppt", title="A simulated light curve")
    parts.set(xlabel="time / d", ylabel="flux / ppt", title="Its components")
    for ax in (total, parts):
        ax.legend(ncols=3, fontsize=8)
    posterior.hist(periods, bins=60, weights=weights, density=True, alpha=0.6)
    posterior.axvline(TRUTH["period"], color="black", label="true")
    posterior.set(xlabel="period / d", ylabel="density", title="Posterior of the period")
    posterior.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "light_curve.png", dpi=110)


if __name__ == "__main__":
    main()
