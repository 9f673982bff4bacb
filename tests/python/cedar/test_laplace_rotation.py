"""`LaplaceRotations` against products of plane rotations, and the anchors that a sample gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from laplex.cedar import CEDAR, laplace_start
from laplex.cedar.adam import Training
from laplex.cedar.laplace_rotation import LaplaceRotations
from laplex.cedar.laplace_start import starting_anchors
from laplex.cedar.topk import top_k
from laplex.cedar.transforms import Laplace
from strategies import awkward_anchor, quick

D = torch.float64

#: Ties, denormals and gaps of 30 decades, in one head or more; the two precisions.
heads = st.integers(1, 12).flatmap(
    lambda dim: st.lists(
        st.lists(awkward_anchor, min_size=dim, max_size=dim), min_size=1, max_size=3
    )
)
dtypes = st.sampled_from((torch.float64, torch.float32))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = D) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def of_planes(anchors: torch.Tensor) -> torch.Tensor:
    """U [d, d] as the product of its plane rotations, in float64."""
    dim = anchors.shape[1]
    result = torch.eye(dim, dtype=D)
    for line in anchors.to(D):
        order = torch.argsort(line, stable=True)
        rows = result[order]  # row i holds v_i; each plane's state takes the row of the next
        for i, gap in enumerate(line[order].diff().tolist()):
            cosine, sine = math.exp(-gap), math.sqrt(-math.expm1(-2 * gap))
            state, value = rows[i].clone(), rows[i + 1].clone()
            rows[i + 1] = cosine * state + sine * value
            rows[i] = cosine * value - sine * state
        result = torch.empty_like(result)
        result[order] = rows
    return result


def tolerance(anchors: torch.Tensor) -> float:
    """Rounding: a few units in the last place for each coordinate that a row passes, and head."""
    return 8 * torch.finfo(anchors.dtype).eps * anchors.numel()


@quick
@given(heads, dtypes)
def test_is_the_product_of_its_plane_rotations(lines: list[list[float]], dtype: torch.dtype):
    anchors = torch.tensor(lines, dtype=dtype)
    readouts = LaplaceRotations(anchors).readouts
    assert readouts.dtype is dtype
    torch.testing.assert_close(readouts.to(D), of_planes(anchors), rtol=0, atol=tolerance(anchors))


@quick
@given(heads, dtypes)
def test_is_orthogonal_and_its_transpose_undoes_it(lines: list[list[float]], dtype: torch.dtype):
    anchors = torch.tensor(lines, dtype=dtype)
    basis = LaplaceRotations(anchors)
    allowed = {"rtol": 0, "atol": tolerance(anchors)}
    readouts, identity = basis.readouts, torch.eye(basis.dim, dtype=dtype)
    torch.testing.assert_close(readouts @ readouts.T, identity, **allowed)
    torch.testing.assert_close(basis.atoms, readouts, **allowed)
    torch.testing.assert_close(basis.synthesise(basis.analyse(identity)), identity, **allowed)
    torch.testing.assert_close(basis.analyse(basis.synthesise(identity)), identity, **allowed)


def test_orthogonal_at_the_width_of_embeddings():
    basis = LaplaceRotations(384 * normal(16, 384, dtype=torch.float32))
    readouts = basis.readouts
    assert float((readouts @ readouts.T - torch.eye(384)).abs().max()) <= 1e-5  # the promise


def test_one_coordinate_is_left_alone():
    z = normal(5, 1)
    torch.testing.assert_close(LaplaceRotations(normal(3, 1)).analyse(z), z, rtol=0, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients(tied: bool):
    anchors = normal(2, 6, seed=1)
    z = normal(3, 6, seed=2).requires_grad_()
    if tied:  # gradients by anchors are for a given order, which ties have none of
        anchors[0, 4] = anchors[0, 1]
        anchors[1] = 0
    else:
        anchors.requires_grad_()
    for product in ("analyse", "synthesise"):
        assert gradcheck(lambda a, v, p=product: getattr(LaplaceRotations(a), p)(v), (anchors, z))


class _Largest(TorchDispatchMode):
    """Notes the most entries of any tensor that an operation returns."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, torch.Tensor):
                self.entries = max(self.entries, one.numel())
        return result


def test_no_matrix_is_formed():
    dim = 20_000
    z = normal(4, dim, dtype=torch.float32)
    transform = Laplace(dim, 2, seeded(), device=z.device, dtype=z.dtype)
    with _Largest() as seen:
        basis = transform()
        codes = top_k(basis.analyse(z), 8)
        basis.synthesise(codes).square().sum().backward()
        back = transform.finished().synthesise(basis.analyse(z).detach())
    assert 4 * dim <= seen.entries <= 16 * dim  # a few copies of the rows, and no d x d
    assert sum(t.numel() for t in basis.tensors().values()) == 2 * dim
    torch.testing.assert_close(back, z, rtol=0, atol=1e-5)


def test_a_start_compares_blocks_of_coordinates(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(laplace_start, "_BLOCK", 64)
    with _Largest() as seen:
        anchors = starting_anchors(normal(4, 1000, dtype=torch.float32), 2, seeded())
    assert seen.entries <= 64**2
    # Every coordinate has its place: none was left where another is.
    assert float(anchors.sort().values.diff().min()) >= math.log(2) / 2 - 1e-5


# --- anchors from a sample ------------------------------------------------------------------------


def waves(count: int, dim: int, seed: int) -> torch.Tensor:
    """Rows with local structure: steps at a few random places, in a shuffled order of columns."""
    random = seeded(seed)
    steps = torch.randn(count, dim, generator=random) * (
        torch.rand(count, dim, generator=random) < 3 / dim
    )
    rows = steps.cumsum(1)[:, torch.randperm(dim, generator=seeded(99))]
    return rows - rows.mean(0)


def energy(basis: LaplaceRotations, z: torch.Tensor, k: int) -> float:
    return float(top_k(basis.analyse(z), k).square().sum() / z.square().sum())


def test_a_sample_gives_a_better_start_than_chance():
    train, test = waves(2000, 64, 0), waves(500, 64, 1)
    start = starting_anchors(train, 4, seeded())
    assert start.shape == (4, 64)
    assert start.dtype is D
    drawn = LaplaceRotations((40 * normal(4, 64)).float())
    # Measured: 0.96 against 0.28.
    assert energy(LaplaceRotations(start.float()), test, 4) > energy(drawn, test, 4) + 0.4


def test_a_pair_is_turned_to_its_two_sources():
    angle = 0.3
    sources = normal(4000, 2) * (torch.rand(4000, 2, generator=seeded(5), dtype=D) < 0.1)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=D
    )
    readouts = LaplaceRotations(starting_anchors(sources @ turn.T, 1, seeded())).readouts
    found = (readouts @ turn).abs()
    # 400 rows hold a source: its direction is known to a part of 1 / sqrt(400), its cosine to
    # half the square of that.
    assert float(found.amax(0).min()) > 1 - 0.01


@pytest.mark.parametrize("dim", [1, 2, 3, 9, 17])
@pytest.mark.parametrize("rows", ["normal", "constant", "one", "tiny", "huge"])
def test_any_sample_will_do(dim: int, rows: str):
    sample = normal(30, dim, dtype=torch.float32)
    if rows == "constant":
        sample = torch.zeros_like(sample)
    elif rows == "one":
        sample = sample[:1]
    elif rows in ("tiny", "huge"):
        sample = sample * (1e-30 if rows == "tiny" else 1e30)
    anchors = starting_anchors(sample, 2, seeded())
    assert bool(anchors.isfinite().all())
    gaps = anchors.sort().values.diff()
    assert float(gaps.min() if gaps.numel() else 1.0) >= math.log(2) / 2 - 1e-5
    assert float(gaps.max() if gaps.numel() else 1.0) <= 6 + 1e-9


def test_a_start_is_free_of_units_and_goes_by_its_seed():
    sample = waves(500, 24, 0)
    start = starting_anchors(sample, 3, seeded(1))
    assert torch.equal(start, starting_anchors(sample, 3, seeded(1)))
    assert torch.equal(start, starting_anchors(2.0**40 * sample, 3, seeded(1)))
    assert not torch.equal(start, starting_anchors(sample, 3, seeded(2)))


def bumps(count: int, dim: int, seed: int) -> torch.Tensor:
    """Rows of three bumps at any places, of which neighbouring columns see much the same."""
    random = seeded(seed)
    heights, places = (draw(count, 3, 1, generator=random) for draw in (torch.randn, torch.rand))
    line = torch.linspace(0, 1, dim)
    rows = (heights * torch.exp(-(((line - places) / 0.06) ** 2))).sum(1)
    return rows - rows.mean(0)


def test_learns_beyond_its_start():
    train, test = bumps(3000, 64, 0), bumps(1000, 64, 1)
    transform = Laplace(64, 4, seeded(), device=train.device, dtype=train.dtype, sample=train)
    start = energy(transform.finished(), test, 4)
    scale = float(train.square().sum(1).mean().sqrt())
    training = Training(transform, train.mean(0), scale, [4], learning_rate=0.01, steps=200)
    random = seeded(3)
    for _ in range(200):
        training.advance(train[torch.randint(len(train), (256,), generator=random)])
    # Measured: from 0.888 to 0.909; a sample of 1000 rows tells the difference of two bases, on
    # the same rows, to well below 0.005.
    assert energy(training.basis(), test, 4) > start + 0.01


def test_is_saved_to_the_bit(tmp_path):
    train, test = waves(500, 32, 0), waves(100, 32, 1)
    model = CEDAR(k=3, basis="laplex", heads=2, max_iter=20, random_state=0).fit(train)
    assert model.basis_.tensors()["anchors"].shape == (2, 32)
    model.save(tmp_path)
    loaded = CEDAR.load(tmp_path)
    codes = model.transform(test)
    assert loaded.transform(test).tobytes() == codes.tobytes()
    assert loaded.inverse_transform(codes).tobytes() == model.inverse_transform(codes).tobytes()
