"""Which argument carries the batch makes no difference: each matrix is as if it were alone.

Sizes of the batch, of the basis and of the rows of values are equal in turn, so that a dimension
taken for another one gives wrong numbers or none.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laplex.gram import LaplaceGram, Matern32, Term, polynomial
from trend_cases import INF, D, draw, uniform

pytestmark = pytest.mark.usefixtures("one_thread")

N, M = 7, 3
CARRIERS = (
    ("lengthscale",),
    ("noise",),
    ("noise per anchor",),
    ("mean",),
    ("basis",),
    ("prior",),
    ("anchors",),
    ("targets",),
    ("values",),
    ("lengthscale", "basis"),
    ("noise", "prior"),
    ("lengthscale", "values"),
    ("targets", "mean"),
)


class Case:
    """A model with p functions, some of whose arguments have a batch of size b."""

    def __init__(self, carriers: tuple[str, ...], b: int, p: int, prior: str) -> None:
        def lead(name: str) -> tuple[int, ...]:
            return (b,) if name in carriers else ()

        self.b = b
        self.x = 5 * uniform(*lead("anchors"), N, seed=1)
        self.t = 6 * uniform(*lead("targets"), M, seed=2)
        self.lengthscale = 0.5 + uniform(*lead("lengthscale"), 1, seed=3)[..., 0]
        per_anchor = "noise per anchor" in carriers
        shape = (b, N) if per_anchor else (*lead("noise"), 1)
        self.noise = 0.1 + uniform(*shape, seed=4)
        self.mean = draw(*lead("mean"), N + M, seed=5)
        self.basis = draw(*lead("basis"), N + M, p, seed=6)
        finite = 0.5 + uniform(*lead("prior"), p, seed=7)
        self.prior = {"finite": finite, "improper": torch.full_like(finite, INF)}[prior]
        self.values = draw(*lead("values"), N, seed=8)

    def of(self, k: int | None = None) -> dict[str, Any]:
        """All results, of matrix k alone or of all."""

        def own(tensor: torch.Tensor, trailing: int) -> torch.Tensor:
            return tensor if k is None or tensor.dim() == trailing else tensor[k]

        mean, basis = own(self.mean, 1), own(self.basis, 2)
        lengthscale = own(self.lengthscale, 0)
        gram = LaplaceGram(
            own(self.x, 1),
            terms=[Matern32(lengthscale), Term(0.3, 0.5)],
            noise=own(self.noise, 1),
            mean=mean[..., :N],
            basis=basis[..., :N, :],
            prior=own(self.prior, 1),
        )
        v, u = own(self.values, 1), draw(M, seed=9)
        found: dict[str, Any] = {
            "solve": gram.solve(v),
            "log_prob": gram.log_prob(v),
            "coefficients": gram.coefficients(v).mean,
            "their covariance": gram.coefficients(v).covariance,
        }
        if not bool((self.prior == INF).any()):
            found |= {
                "matvec": gram.matvec(v),
                "diagonal": gram.diagonal(),
                "dense": gram.to_dense(),
                "logdet": gram.logdet(),
                "color": gram.color(v),
                "whiten": gram.whiten(v),
                "inv_quad": gram.inv_quad_logdet(v)[0],
            }
        new = {"mean_targets": mean[..., N:], "basis_targets": basis[..., N:, :]}
        targets = own(self.t, 1)
        for term in (None, 0, "basis", [0, "basis"]):
            predicted = gram.predict(targets, v, term=term, **new)
            for name in ("mean", "variance", "covariance"):
                found[f"{name} of {term}"] = getattr(predicted, name)
            if term != "basis":
                found[f"density of {term}"] = predicted.log_prob(u)
        rest = gram.condition(torch.tensor([5, 0, 3, 1]), v[..., [5, 0, 3, 1]])
        for name in ("mean", "variance", "latent_variance", "covariance"):
            found[f"{name} of condition"] = getattr(rest, name)
        found["density of condition"] = rest.log_prob(u)
        return found


@pytest.mark.parametrize("prior", ["finite", "improper"])
@pytest.mark.parametrize(("b", "p"), [(2, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize("carriers", CARRIERS, ids="+".join)
def test_whoever_carries_the_batch(carriers, b, p, prior):
    case = Case(carriers, b, p, prior)
    together = case.of()
    for k in range(b):
        for name, alone in case.of(k).items():
            # What no batch reaches has none.
            whole = together[name]
            found = whole[k] if whole.dim() > alone.dim() else whole
            assert found.shape == alone.shape, name
            torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_functions_of_unbatched_anchors(p):
    x, t = 10 * uniform(12, seed=1), 12 * uniform(4, seed=2)
    v, scales = draw(12, seed=3), torch.tensor([0.5, 2.0], dtype=D)
    given = {"noise": 0.1, "basis": polynomial(p - 1, 0.0, 10.0)}
    both = LaplaceGram(x, terms=Matern32(scales), **given).predict(t, v)
    assert both.sample((3,)).shape == (3, 2, 4)
    for k, scale in enumerate(scales):
        one = LaplaceGram(x, terms=Matern32(scale), **given).predict(t, v)
        for name in ("mean", "variance", "covariance"):
            torch.testing.assert_close(getattr(both, name)[k], getattr(one, name))
