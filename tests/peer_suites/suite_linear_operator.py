"""linear_operator's `LinearOperatorTestCase` on the operators of Laplex."""

from __future__ import annotations

from pathlib import Path
from unittest import TestCase

import torch
from linear_operator.test.linear_operator_test_case import (
    LinearOperatorTestCase,
    RectangularLinearOperatorTestCase,
)

from laplex import LaplaceOperator
from laplex.gram import SHO, LaplaceGram, Matern32, Matern52, Term
from laplex.gram.linear_operator import (
    LaplaceBlockLinearOperator,
    LaplaceConditionalLinearOperator,
)

EXPLANATIONS: dict[str, str] = {}


def prepare(clone: Path) -> list[str]:
    """The test cases are those of the installed package, which contains them."""
    return [__file__]


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(*shape)


class GramCase(LinearOperatorTestCase):
    """What the cases of covariances have in common: nothing is solved iteratively."""

    seed = 0
    should_call_cg = False
    should_call_lanczos = False
    should_call_lanczos_diagonalization = False

    def gram(self) -> LaplaceGram:
        raise NotImplementedError

    def create_linear_op(self):
        return self.gram().to_linear_operator()

    def evaluate_linear_op(self, linear_op):
        return linear_op.gram.to_dense()


class TestOneTerm(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(5), lengthscale=0.5, noise=0.2)


class TestNoNoise(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(torch.tensor([0.0, 2.0, 1.0, 3.0, 4.5]), lengthscale=0.8)


class TestOscillation(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(5), frequency=2.0, noise=uniform(5) + 0.2)


class TestSum(GramCase, TestCase):
    def gram(self):
        terms = [Term(0.3, 2.0), Term(0.8, phase=uniform(5), scale=uniform(5))]
        return LaplaceGram(3 * uniform(5), terms=terms, noise=0.2)


class TestBatch(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(2, 5), lengthscale=0.5, noise=0.2)


class TestTwoBatches(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(2, 1, 5), lengthscale=uniform(3) + 0.2, noise=0.2)


class TestSumBatch(GramCase, TestCase):
    def gram(self):
        terms = [Term(0.3, uniform(2) + 0.5), Term(0.8, frequency=2.0)]
        return LaplaceGram(3 * uniform(2, 5), terms=terms, noise=uniform(2, 5) + 0.2)


class TestMatern32(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(5), terms=Matern32(0.7), noise=0.2)


class TestMatern52Batch(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(2, 5), terms=Matern52(uniform(2) + 0.2), noise=0.2)


class TestOscillators(GramCase, TestCase):
    def gram(self):
        terms = SHO(sigma=1.0, w0=3.0, Q=0.3) + SHO(sigma=0.5, rho=1.0, Q=4.0)
        return LaplaceGram(3 * uniform(5), terms=terms, noise=0.2)


class TestBasis(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(5), noise=0.2, basis=uniform(5, 2), prior=2.0)


class TestBasisBatch(GramCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(2, 5), noise=0.2, basis=uniform(5, 2), prior=uniform(2, 2))


class ConditionalCase(GramCase):
    def create_linear_op(self):
        whole = self.gram().to_linear_operator()
        return LaplaceConditionalLinearOperator(whole, observed=3)

    def evaluate_linear_op(self, linear_op):
        whole = linear_op._whole.gram.to_dense()
        cross = whole[..., 3:, :3]
        return whole[..., 3:, 3:] - cross @ torch.linalg.solve(whole[..., :3, :3], cross.mT)


class TestConditional(ConditionalCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(8), lengthscale=0.5, noise=0.2)


class TestConditionalBatch(ConditionalCase, TestCase):
    def gram(self):
        return LaplaceGram(3 * uniform(2, 8), lengthscale=0.5, noise=0.2)


class TestConditionalBasis(ConditionalCase, TestCase):
    def gram(self):
        terms = Matern32(0.7)
        return LaplaceGram(3 * uniform(8), terms=terms, noise=0.2, basis=uniform(8, 2), prior=2.0)


class BlockCase(RectangularLinearOperatorTestCase):
    seed = 0

    def create_linear_op(self):
        whole = LaplaceGram(3 * uniform(*self.shape), terms=SHO(sigma=1.0, w0=3.0, Q=2.0))
        return LaplaceBlockLinearOperator(whole.to_linear_operator(), first=5)

    def evaluate_linear_op(self, linear_op):
        return linear_op._whole.gram.to_dense()[..., :5, 5:]


class TestBlock(BlockCase, TestCase):
    shape = (9,)


class TestBlockBatch(BlockCase, TestCase):
    shape = (2, 9)


class RectangularCase(RectangularLinearOperatorTestCase):
    seed = 0

    def create_linear_op(self):
        return self.operator().to_linear_operator()

    def evaluate_linear_op(self, linear_op):
        return linear_op._operator.to_dense()


class TestRectangular(RectangularCase, TestCase):
    def operator(self):
        return LaplaceOperator(3 * uniform(5), 3 * uniform(4), lengthscale=0.7)


class TestRectangularBatch(RectangularCase, TestCase):
    def operator(self):
        return LaplaceOperator(3 * uniform(2, 5), 3 * uniform(2, 4), lengthscale=0.7)


class TestRectangularMatern52(RectangularCase, TestCase):
    def operator(self):
        return LaplaceOperator(3 * uniform(5), 3 * uniform(4), lengthscale=0.7, kernel="matern52")
