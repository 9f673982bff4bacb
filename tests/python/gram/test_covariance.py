"""Covariance models of images against dense float64 linear algebra."""

from __future__ import annotations

import pickle
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from laplex.gram import LaplaceCovariance
from laplex.gram.covariance import matching, training

DIM = 40


# Small matrices; see conftest.py.
pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(heads: int, phased: bool, dim: int = DIM, seed: int = 0) -> LaplaceCovariance:
    """A float64 model whose every parameter is random."""
    torch.manual_seed(seed)
    model = LaplaceCovariance(dim, heads, phased, dtype=torch.float64)
    with torch.no_grad():
        model.anchors.copy_(3 * torch.rand_like(model.anchors))
        model.scales.copy_(torch.randn_like(model.scales))
        model.log_noise.uniform_(-2, 0)
        model.mean.uniform_(-1, 1)
        model.deviation.uniform_(0.5, 2)
    return model


def dense_of(model: LaplaceCovariance) -> Tensor:
    """The sum of heads without noise on standardised pixels, by the formula; differentiable."""
    total = torch.zeros(model.dim, model.dim, dtype=torch.float64)
    for head in range(model.heads):
        x, scale = model.anchors[head], model.scales[head]
        kernel = torch.exp(-(x[:, None] - x).abs())
        if model.phases is not None:
            kernel = kernel * torch.cos(model.phases[head][:, None] - model.phases[head])
        total = total + scale[:, None] * kernel * scale
    return total


def full_covariance(model: LaplaceCovariance) -> Tensor:
    """With noise, in the images' units."""
    standardised = dense_of(model) + torch.diag(model.noise)
    return (standardised * model.deviation[:, None] * model.deviation).detach()


def images_of(model: LaplaceCovariance, count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, model.dim, generator=generator, dtype=torch.float64)


CASES = [(1, False), (1, True), (3, False), (3, True)]
cases = pytest.mark.parametrize(("heads", "phased"), CASES)


# --- the matching loss -------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("count", [7, 100])  # fewer and more images than pixels
def test_loss_and_gradients_are_those_of_the_dense_formula(
    heads: int, phased: bool, count: int
) -> None:
    model = model_of(heads, phased)
    rows = images_of(model, count)
    moments = training.moments_of(rows)
    sample = rows.T @ rows / count
    vectors = matching.probe_vectors(DIM, None, None).double()
    roots, weight = (rows, 1 / count) if count < DIM else (matching.square_root(rows, 1 / count), 1)
    loss = matching.squared_distance(model.parts(), moments, roots, weight, vectors)

    dense = dense_of(model)
    off = sample - dense
    off = off - torch.diag(off.diagonal())
    excess = (dense.diagonal() + matching.NOISE_FLOOR - sample.diagonal()).clamp_min(0)
    expected = off.square().sum() + excess.square().sum()
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    assert moments.squared_norm == pytest.approx(float(sample.square().sum()), rel=1e-12)

    parameters = [p for name, p in model.named_parameters() if name != "log_noise"]
    ours = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@torch.no_grad()
def test_random_probes_and_batches_are_unbiased() -> None:
    model = model_of(3, True)
    rows = images_of(model, 30)
    moments = training.moments_of(rows)
    heads = model.parts()
    vectors = matching.probe_vectors(DIM, None, None).double()
    exact = float(matching.squared_distance(heads, moments, rows, 1 / 30, vectors))
    generator = torch.Generator().manual_seed(3)
    draws = []
    for _ in range(400):
        drawn = rows[torch.randperm(30, generator=generator)[:10]]
        vectors = matching.probe_vectors(DIM, 4, generator).double()
        draws.append(float(matching.squared_distance(heads, moments, drawn, 1 / 10, vectors)))
    error = np.std(draws) / 400**0.5
    assert abs(np.mean(draws) - exact) < 4 * error  # 4 standard errors, a fixed seed


@cases
def test_relative_error_is_that_of_the_dense_matrices(heads: int, phased: bool) -> None:
    model = model_of(heads, phased)
    images = images_of(model, 90)
    rows = (images - model.mean) / model.deviation
    off = ~torch.eye(DIM, dtype=torch.bool)
    sample = (rows.T @ rows / 90)[off]
    expected = (sample - dense_of(model).detach()[off]).square().sum() / sample.square().sum()
    assert model.relative_error(images) == pytest.approx(float(expected), rel=1e-10)


# --- the Gaussian ------------------------------------------------------------------------------


@cases
def test_log_prob_is_the_dense_one(heads: int, phased: bool) -> None:
    model = model_of(heads, phased)
    images = images_of(model, 5)
    normal = torch.distributions.MultivariateNormal(model.mean, full_covariance(model))
    torch.testing.assert_close(model.log_prob(images), normal.log_prob(images), rtol=1e-9, atol=0)


@cases
def test_log_prob_has_the_gradients_of_the_dense_one(heads: int, phased: bool) -> None:
    model = model_of(heads, phased)
    images = images_of(model, 3)
    covariance = (dense_of(model) + torch.diag(model.noise)) * model.deviation[:, None]
    normal = torch.distributions.MultivariateNormal(model.mean, covariance * model.deviation)
    expected = torch.autograd.grad(normal.log_prob(images).sum(), list(model.parameters()))
    ours = torch.autograd.grad(model.log_prob(images).sum(), list(model.parameters()))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def test_log_prob_of_a_sum_by_iteration_is_near_the_dense_one() -> None:
    import linear_operator

    model = model_of(2, True, dim=150)
    images = images_of(model, 4)
    normal = torch.distributions.MultivariateNormal(model.mean, full_covariance(model))
    settings = linear_operator.settings
    torch.manual_seed(0)
    with (
        settings.max_cholesky_size(1),
        settings.num_trace_samples(100),
    ):
        ours = model.log_prob(images)
    expected = normal.log_prob(images)
    # Stochastic Lanczos errs in the log determinant, alike for every image; the squares are exact.
    torch.testing.assert_close(ours - ours[0], expected - expected[0], rtol=1e-4, atol=1e-2)
    assert float((ours - expected).detach().abs().max()) < 0.02 * 150


@cases
def test_samples_have_the_covariance(heads: int, phased: bool) -> None:
    model = model_of(heads, phased, dim=12)
    count = 40_000
    drawn = model.sample(count, generator=torch.Generator().manual_seed(5)) - model.mean
    covariance = full_covariance(model)
    variances = covariance.diagonal()
    # Var of a sample covariance's entry is (S_ii S_jj + S_ij^2) / N; 5 deviations of 78 entries.
    deviation = ((variances[:, None] * variances + covariance.square()) / count).sqrt()
    assert bool(((drawn.T @ drawn / count - covariance).abs() < 5 * deviation).all())


# --- completion --------------------------------------------------------------------------------


@cases
def test_inpaint_is_the_dense_conditional_mean(heads: int, phased: bool) -> None:
    model = model_of(heads, phased)
    images = images_of(model, 3)
    masks = torch.rand(3, DIM, generator=torch.Generator().manual_seed(2)) < 0.4
    masks[2] = masks[0]
    covariance = full_covariance(model)
    spoilt = torch.where(masks, torch.nan, images)
    filled = model.inpaint(spoilt, masks)
    for image, mask, ours in zip(images, masks, filled, strict=True):
        seen = ~mask
        weights = torch.linalg.solve(covariance[seen][:, seen], (image - model.mean)[seen])
        mean = model.mean[mask] + covariance[mask][:, seen] @ weights
        torch.testing.assert_close(ours[mask], mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours[seen], image[seen], rtol=0, atol=0)


def test_inpaint_of_a_sum_by_conjugate_gradients() -> None:
    import linear_operator

    model = model_of(2, True)
    images = images_of(model, 2)
    mask = torch.arange(DIM) < 10
    exact = model.inpaint(images, mask)
    with linear_operator.settings.max_cholesky_size(1):
        torch.testing.assert_close(model.inpaint(images, mask), exact, rtol=1e-3, atol=1e-3)


@cases
def test_denoise_is_the_dense_posterior_mean(heads: int, phased: bool) -> None:
    model = model_of(heads, phased)
    images = images_of(model, 3)
    covariance = full_covariance(model)
    seen = covariance + 0.3 * torch.eye(DIM, dtype=torch.float64)
    weights = torch.linalg.solve(seen, (images - model.mean).T)
    expected = model.mean + (covariance @ weights).T
    torch.testing.assert_close(model.denoise(images, 0.3), expected, rtol=1e-8, atol=1e-8)


# --- the covariance ----------------------------------------------------------------------------


@cases
def test_covariance_operator_and_neighbours_agree(heads: int, phased: bool) -> None:
    model = model_of(heads, phased)
    covariance = full_covariance(model)
    torch.testing.assert_close(model.covariance(), covariance, rtol=1e-12, atol=1e-12)
    operator = model.operator()
    values = images_of(model, 3).T
    torch.testing.assert_close(operator @ values, covariance @ values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator.to_dense(), covariance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator.diagonal(), covariance.diagonal(), rtol=1e-12, atol=1e-12)

    dense = dense_of(model).detach()
    diagonal = dense.diagonal().sqrt()
    correlation = dense / (diagonal[:, None] * diagonal)
    index, values = model.neighbours(-1, 5)
    strength = correlation[-1].abs()
    strength[-1] = -1
    torch.testing.assert_close(index, strength.topk(5).indices)
    torch.testing.assert_close(values, correlation[-1, index])


# --- fitting -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.tensor(load_digits().images, dtype=torch.float32)


def test_fit_finds_neighbours_on_digits(digits: Tensor) -> None:
    torch.manual_seed(0)
    model = LaplaceCovariance(64, heads=2)
    history = model.fit(digits, steps=150)
    assert history.losses[-1] < 0.25 * history.losses[0]
    assert model.relative_error(digits) < 0.4
    variance = digits.reshape(-1, 64).var(0, correction=0)
    # Of what varies: noise makes the variances those of the images, or heads exceed them a bit.
    lively = variance > 1
    torch.testing.assert_close(
        model.covariance().diagonal()[lively], variance[lively], rtol=0.25, atol=0
    )
    assert model.sample(2).shape == (2, 64)
    assert model.inpaint(digits[0], torch.eye(8, dtype=torch.bool)).shape == (8, 8)
    assert model.log_prob(digits[:3]).shape == (3,)
    assert model.log_prob(digits[0]).shape == ()


def test_likelihood_steps_raise_the_likelihood(digits: Tensor) -> None:
    torch.manual_seed(0)
    model = LaplaceCovariance(64, heads=1)
    history = model.fit(digits, steps=60, likelihood_steps=30)
    assert history.log_likelihoods[-1] > history.log_likelihoods[0] + 1
    assert float(model.log_prob(digits).detach().mean()) > history.log_likelihoods[0]


@pytest.mark.parametrize("interrupted", [20, 40])  # in the matching, in the polish
def test_a_resumed_fit_has_the_same_bits(digits, tmp_path, monkeypatch, interrupted) -> None:  # type: ignore[no-untyped-def]
    options = {"steps": 30, "likelihood_steps": 20, "batch_size": 100, "probes": 5}
    torch.manual_seed(0)
    whole = LaplaceCovariance(64, heads=1)
    torch.manual_seed(0)
    parted = LaplaceCovariance(64, heads=1)
    expected = whole.fit(digits, **options)

    taken = 0
    take_step = training._Run._step

    def failing(self, loss):  # type: ignore[no-untyped-def]
        nonlocal taken
        if taken == interrupted + 3:
            raise KeyboardInterrupt
        taken += 1
        return take_step(self, loss)

    path = tmp_path / "covariance.pt"
    monkeypatch.setattr(training._Run, "_step", failing)
    with pytest.raises(KeyboardInterrupt):
        parted.fit(digits, checkpoint=path, checkpoint_every=10, **options)
    monkeypatch.undo()
    torch.manual_seed(9)
    resumed = LaplaceCovariance(64, heads=1)
    history = resumed.fit(digits, checkpoint=path, resume=True, **options)
    assert history == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["covariance.pt"]
    with pytest.raises(ValueError, match=r"checkpoint .* belongs to another run: its steps is 30"):
        resumed.fit(digits, checkpoint=path, resume=True, **{**options, "steps": 31})


def test_pickle_state_dict_repr_and_plot(digits: Tensor) -> None:
    model = model_of(2, True, dim=64)
    again = pickle.loads(pickle.dumps(model))
    other = LaplaceCovariance(64, 2, dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    for copy in (again, other):
        assert torch.equal(copy.log_prob(digits[:2]), model.log_prob(digits[:2]))
    assert repr(model) == "LaplaceCovariance(dim=64, heads=2, phased=True, parameters=448)"
    figure = model.plot_order(head=1)
    assert len(figure.axes) == 6  # three pictures with their colour bars
    with pytest.raises(ValueError, match=r"shape must be .* of 64 numbers"):
        model.plot_order((3, 4))
    with pytest.raises(ValueError, match="head must be in"):
        model.plot_order(head=2)


# --- errors ------------------------------------------------------------------------------------

GOOD = torch.zeros(3, 16)
SPOILT = torch.full((3, 16), torch.nan)
MASK = torch.zeros(16, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: LaplaceCovariance(0), ValueError, "dim must be at least 1"),
        (lambda m: LaplaceCovariance(16, 0), ValueError, "heads must be at least 1"),
        (lambda m: LaplaceCovariance(16, 1.5), TypeError, "heads must be an integer"),
        (lambda m: LaplaceCovariance(16, phased=2), TypeError, "phased must be True or False"),
        (lambda m: LaplaceCovariance(16, dtype=torch.float16), TypeError, "dtype must be"),
        (lambda m: m.fit(GOOD[:1]), ValueError, "images must contain at least 2"),
        (lambda m: m.fit(GOOD), ValueError, "images are all the same"),
        (lambda m: m.fit(SPOILT), ValueError, "images must be finite"),
        (lambda m: m.fit(torch.zeros(3, 15)), ValueError, "images must have 16 numbers"),
        (lambda m: m.fit(np.zeros((3, 16))), TypeError, "use torch.as_tensor$"),
        (lambda m: m.fit(GOOD, steps=-1), ValueError, "steps must be at least 0"),
        (lambda m: m.fit(GOOD, batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda m: m.fit(GOOD, learning_rate=0), ValueError, "learning_rate must be positive"),
        (lambda m: m.fit(GOOD, resume=True), ValueError, "needs the path of a checkpoint"),
        (lambda m: m.log_prob(SPOILT), ValueError, "images must be finite"),
        (lambda m: m.log_prob(GOOD.to(torch.complex64)), TypeError, "must hold real numbers"),
        (lambda m: m.sample(0), ValueError, "count must be at least 1"),
        (lambda m: m.inpaint(GOOD, ~MASK), ValueError, "mask has no observed pixel"),
        (lambda m: m.inpaint(GOOD, MASK.float()), TypeError, "mask must be bool"),
        (lambda m: m.inpaint(GOOD, MASK[:5]), ValueError, "mask must have the shape of the images"),
        (lambda m: m.inpaint(SPOILT, MASK), ValueError, "image must be finite"),
        (lambda m: m.denoise(GOOD, -1.0), ValueError, "variance must be positive"),
        (lambda m: m.neighbours(16), ValueError, "pixel must be in"),
        (lambda m: m.neighbours(0, 16), ValueError, "k must be less than"),
    ],
)
def test_errors_name_argument_and_remedy(call, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call(LaplaceCovariance(16, heads=2))


# --- examples ----------------------------------------------------------------------------------

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def run_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Runs an example as a script in this process, which has imported torch already."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    with torch.random.fork_rng():
        yield run


def test_example_of_fashion_mnist(run_example: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("rich")
    said = run_example(
        "covariance_fashion_mnist.py",
        *("--data", "digits", "--steps", "40", "--polish", "3", "--out", str(tmp_path)),
    )
    assert "nats per image" in said
    assert {"inpainting.png", "order.png"} <= {file.name for file in tmp_path.iterdir()}


def test_example_of_photographs(run_example: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("skimage")
    arguments = ("--whole", "--side", "40", "--steps", "2", "--out", str(tmp_path))
    assert "at full size" in run_example("covariance_photographs.py", *arguments)
    assert (tmp_path / "whole.png").exists()


def test_masks_have_the_shape_of_images():
    model, images = fitted_small()
    with pytest.raises(ValueError, match="mask must have the shape of the images"):
        model.inpaint(images, torch.zeros(8, 8, len(images), dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must have the shape"):
        model.inpaint(images, torch.zeros(4, 16, dtype=torch.bool))
    mask = torch.rand(len(images), 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    flat = model.inpaint(images.reshape(-1, 64), mask.reshape(-1, 64))
    assert torch.equal(model.inpaint(images, mask).reshape(-1, 64), flat)


def fitted_small():
    images = torch.rand(12, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = LaplaceCovariance(64, heads=1)
    model.fit(images, steps=2)
    return model, images


def test_checkpoints_of_other_images_and_broken_ones_change_nothing(tmp_path):
    _, images = fitted_small()
    path = tmp_path / "fit.pt"
    LaplaceCovariance(64, heads=1).fit(images, steps=2, checkpoint=path)
    model = LaplaceCovariance(64, heads=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="hash of the images"):
        model.fit(images.flip(2), steps=2, checkpoint=path, resume=True)
    for content in (b"", b"garbage", path.read_bytes()[:300]):
        broken = tmp_path / "broken.pt"
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.pt was not written by fit"):
            model.fit(images, steps=2, checkpoint=broken, resume=True)
    for state in ({"a": 1}, {"fingerprint": 3}):
        torch.save(state, tmp_path / "broken.pt")
        with pytest.raises(ValueError, match="was not written by fit"):
            model.fit(images, steps=2, checkpoint=tmp_path / "broken.pt", resume=True)
    with pytest.raises(ValueError, match="cannot be written"):
        model.fit(images, steps=2, checkpoint=tmp_path / "missing" / "fit.pt")
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_fits_where_gradients_are_off_and_says_when_it_diverges():
    images = torch.rand(12, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model = LaplaceCovariance(64, heads=1)
    with torch.no_grad():
        assert len(model.fit(images, steps=2).losses) == 2
    with pytest.raises(ValueError, match="lower learning_rate"):
        LaplaceCovariance(64, heads=1).fit(images, steps=5, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"images overflow the model's torch\.float32"):
        model.fit(1e300 * images.double(), steps=2)


def test_bad_numbers_and_shapes():
    model, images = fitted_small()
    for pixel in (1.5, "a", True):
        with pytest.raises(TypeError, match="pixel must be an integer"):
            model.neighbours(pixel)
    with pytest.raises(ValueError, match="probes must be at least 1"):
        model.relative_error(images, probes=0)
    with pytest.raises(ValueError, match="no covariance to compare with"):
        model.relative_error(images[:0])
    with pytest.raises(TypeError, match="shape must be"):
        model.plot_order(8)
    with pytest.raises(ValueError, match="shape must be at least 1"):
        model.plot_order((-8, -8))
    with pytest.raises(TypeError, match="head must be an integer"):
        model.plot_order((8, 8), head=1.5)
