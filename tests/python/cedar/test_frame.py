"""Frames: more axes than columns, codes by pursuit, and their exact inverse."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import orthogonal_mp
from sklearn.utils.estimator_checks import check_estimator

from laplex.cedar import (
    CEDAR,
    attribute,
    axes_of,
    explain_match,
    measure_effects,
    stability,
    steer,
)
from laplex.cedar.frame import FrameBasis, FrameSearch, pursue, updated
from laplex.cedar.metrics import mcc
from laplex.cedar.transforms.frame import Frame
from strategies import quick


def atoms_of(axes, dim, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    atoms = torch.randn(axes, dim, generator=random, dtype=torch.float64)
    return (atoms / atoms.norm(dim=1, keepdim=True)).to(dtype)


def planted(rows, axes, dim, k, seed=0):
    """Rows that mix k of the atoms each, and the atoms."""
    random = np.random.default_rng(seed)
    atoms = atoms_of(axes, dim, seed).numpy()
    codes = np.zeros((rows, axes))
    chosen = random.random((rows, axes)).argsort(1)[:, :k]
    np.put_along_axis(codes, chosen, random.standard_normal((rows, k)), 1)
    return codes @ atoms, atoms


@pytest.fixture(scope="module")
def superposed():
    """Twice as many causes as columns, and a frame fitted to them."""
    rows, atoms = planted(6000, 32, 16, 2)
    return rows, atoms, CEDAR(2, basis="frame", random_state=0).fit(rows[:5000])


@quick
@given(dim=st.integers(1, 12), more=st.integers(0, 12), seed=st.integers(0, 99))
def test_coordinates_restore_every_row(dim, more, seed):
    atoms = torch.cat([torch.eye(dim, dtype=torch.float64), atoms_of(more, dim, seed)])
    basis = FrameBasis(atoms)
    z = torch.randn(5, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    # The identity is among the atoms, so the singular values are at least 1.
    assert torch.allclose(basis.synthesise(basis.analyse(z)), z, atol=1e-12 * (dim + more))
    assert (basis.dim, basis.axes) == (dim, dim + more)


def test_pursuit_is_that_of_scikit_learn():
    atoms = atoms_of(20, 10)
    z = torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for k in (1, 3, 6):
        theirs = orthogonal_mp(atoms.numpy().T, z.numpy().T, n_nonzero_coefs=k).T
        # Ours solves with a ridge of 8 k eps, relative to well conditioned supports.
        np.testing.assert_allclose(pursue(z, atoms, k).numpy(), theirs, atol=1e-9)


def test_codes_of_a_rotation_are_its_largest_coordinates():
    rotation = Frame.starting_atoms(8, 1, torch.Generator().manual_seed(0))
    z = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coordinates = z @ rotation.T
    kept = coordinates.abs() >= coordinates.abs().topk(3).values[:, -1:]
    for rounds in (1, 3):
        assert torch.allclose(
            pursue(z, rotation, 3, rounds), torch.where(kept, coordinates, 0.0), atol=1e-12
        )


def test_what_is_not_there_has_no_entry():
    atoms = atoms_of(12, 6)
    z = torch.zeros(2, 6, dtype=torch.float64)
    z[1] = 3 * atoms[4]
    codes = pursue(z, atoms, 4)
    assert codes.nonzero().tolist() == [[1, 4]]
    assert pursue(z[:0], atoms, 4).shape == (0, 12)


def test_gradients_pass_through_least_squares():
    atoms = atoms_of(12, 6)
    z = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda z: pursue(z, atoms, 3), z.requires_grad_())


def test_new_atoms_never_fit_the_codes_worse():
    rows = torch.from_numpy(planted(500, 16, 8, 2)[0])
    atoms = Frame.starting_atoms(8, 2, torch.Generator().manual_seed(0))
    codes = pursue(rows, atoms, 2)
    new = updated(codes.T @ codes, codes.T @ rows, atoms)
    assert torch.allclose(new.norm(dim=1), torch.ones(16, dtype=torch.float64))
    # The scale of an atom is free: the best multiple of each code entry is refitted.
    again = torch.linalg.lstsq(codes, rows).solution
    sized = new * (again * new).sum(1, keepdim=True)
    before = (rows - codes @ atoms).square().sum()
    assert (rows - codes @ sized).square().sum() <= before


def test_more_causes_than_columns_are_found(superposed):
    rows, atoms, model = superposed
    assert mcc(model.atoms_, atoms) > 0.99
    assert model.score(rows[5000:]) > 0.98
    rotation = CEDAR(2, random_state=0).fit(rows[:5000])
    assert rotation.score(rows[5000:]) < 0.9
    assert model.loss_curve_[-1] == min(model.loss_curve_)


def test_shapes_names_and_copies(superposed, tmp_path):
    rows, _, model = superposed
    codes = model.transform(rows[:50])
    assert codes.shape == (50, 32)
    assert ((codes != 0).sum(1) <= 2).all()
    assert len(model.get_feature_names_out()) == 32
    assert model.atoms_.shape == model.components_.shape == (32, 16)
    model.save(tmp_path / "model")
    same = CEDAR.load(tmp_path / "model")
    assert (same.transform(rows[:50]) == codes).all()
    module = model.torch_module()
    z = torch.from_numpy(rows[:6]).reshape(2, 3, 16)
    inside = module.encode(z)
    assert inside.shape == (2, 3, 32)
    np.testing.assert_allclose(inside.detach().numpy().reshape(6, 32), codes[:6], atol=1e-12)
    assert module.decode(inside).shape == (2, 3, 16)
    back = model.inverse_transform(codes)
    np.testing.assert_allclose(module(z).detach().numpy().reshape(6, 16), back[:6], atol=1e-12)
    pairs = list(model.iter_transform(rows[:50], format="indices"))
    assert pairs[0][0].shape == (50, 2)
    sparse = clone(model).set_params(sparse_output=True).fit(rows[:500]).transform(rows[:50])
    assert sparse.shape == (50, 32)


def test_coordinates_that_were_set_are_read_again(superposed):
    rows, _, model = superposed
    z, values = rows[:4], {20: 1.5, 3: [0.0, 1.0, 2.0, 3.0]}
    moved = model.intervene(z, values)
    read = (moved - model.mean_) @ model.components_[[20, 3]].T
    np.testing.assert_allclose(read, np.transpose([[1.5] * 4, values[3]]), atol=1e-10)
    np.testing.assert_allclose(model.intervene(moved, values), moved, atol=1e-10)
    # It moves along the atoms of these axes and nowhere else.
    along = np.linalg.lstsq(model.atoms_[[20, 3]].T, (moved - z).T)[0]
    np.testing.assert_allclose(along.T @ model.atoms_[[20, 3]], moved - z, atol=1e-10)
    # All axes together depend on each other; values that fit together are reached all the same.
    doubled = model.intervene(z, dict.fromkeys(range(32), lambda c: 2 * c))
    np.testing.assert_allclose(doubled - model.mean_, 2 * (z - model.mean_), atol=1e-10)
    linear = torch.nn.Linear(16, 16).double()
    with steer(linear, model, {31: 2.0}):
        steered = linear(torch.from_numpy(z))
    want = model.torch_module().intervene(linear(torch.from_numpy(z)), {31: 2.0})
    assert torch.equal(steered, want)


def test_effects_of_axes_add_up(superposed):
    rows, _, model = superposed
    z, slope = torch.from_numpy(rows[:20]), torch.linspace(-1, 1, 16, dtype=torch.float64)

    def metric(z):
        return (z @ slope).sum()

    found = attribute(model, z, metric)
    assert found.by_axis.shape == (32,)
    assert abs(found.unexplained) < 1e-9
    assert torch.allclose(measure_effects(model, z, metric, range(32)), found.by_axis, atol=1e-9)


def test_axes_of_a_match_add_up_to_the_reconstructions(superposed):
    rows, _, model = superposed
    found = explain_match(model, rows[0], rows[1], measure="inner")
    near = model.inverse_transform(model.transform(rows[:2])) - model.mean_
    w = rows[:2] - model.mean_
    assert found.contributions.sum() == pytest.approx(near[0] @ near[1], abs=1e-10)
    assert found.residual == pytest.approx(w[0] @ w[1] - near[0] @ near[1], abs=1e-10)
    shares = axes_of(model, rows[0])
    assert shares.contributions.sum() == pytest.approx(near[0] @ near[0] / (w[0] @ w[0]), abs=1e-10)


def test_a_frame_inside_a_network(superposed):
    rows, _, model = superposed
    module, z = model.torch_module(), torch.from_numpy(rows[:600])
    broken = z[:3].clone()
    broken[1, 2], broken[2, 3] = torch.nan, torch.inf
    assert module(broken).isnan().all(1).tolist() == [False, True, True]
    wide = model.torch_module().float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = wide.encode(z[:5].float())
    assert torch.equal(inside, wide.encode(z[:5].float()))
    exported = torch.export.export(
        module, (z[:6].reshape(2, 3, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ).module()
    many = z.reshape(200, 3, 16)
    assert torch.allclose(exported(many), module(many), atol=1e-12)


def test_other_rows_confirm_atoms_and_none_of_noise(superposed):
    rows, atoms, model = superposed
    found = clone(model).set_params(n_init=3).fit(rows[:5000])
    assert (found.atoms_ == model.atoms_).all()
    confirmed = found.atoms_[found.confirmed_]
    assert len(confirmed) >= 5
    assert (np.abs(confirmed @ atoms.T).max(1) > 0.95).all()
    assert found.restarts_.shape == (3, 32, 16)
    assert stability(found.restarts_).mean > 0.9
    noise = np.random.default_rng(0).standard_normal((1000, 8))
    assert not CEDAR(2, basis="frame", random_state=0, n_init=3).fit(noise).confirmed_.any()


def test_a_search_that_ends_too_early_warns(superposed):
    rows = superposed[0]
    with pytest.warns(ConvergenceWarning, match="max_iter=8 passes ended while the frame still"):
        model = CEDAR(2, basis="frame", random_state=0, max_iter=8).fit(rows[:1000])
    assert model.n_iter_ == len(model.loss_curve_) == 8
    with pytest.warns(ConvergenceWarning, match="3 are too few to tell"):
        CEDAR(2, basis="frame", random_state=0, max_iter=3).fit(rows[:1000])


def test_order_is_by_energy_and_signs_by_skew(superposed):
    rows, _, model = superposed
    codes = model.transform(rows[:5000])
    energy = np.square(codes).mean(0)
    assert (np.diff(energy) <= 1e-9 * energy[0]).all()


def test_checkpoint_continues_with_the_same_bits(superposed, tmp_path):
    rows = superposed[0][:500]
    whole = CEDAR(2, basis="frame", random_state=0, max_iter=6, tol=0).fit(rows)
    path = tmp_path / "fit.checkpoint"
    search = CEDAR(2, basis="frame", random_state=0, max_iter=6, tol=0)
    calls = []

    def stop(*args, original=FrameSearch.advance, **keywords):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameSearch, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            search.fit(rows, checkpoint=path)
    search.fit(rows, checkpoint=path, resume=True)
    assert (search.atoms_ == whole.atoms_).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"solver": "adam"}, "solver must be 'auto' or 'pursuit' for basis='frame', got 'adam'"),
        ({"center": "learned"}, "center must be 'mean' or 'none' for basis='frame'"),
        ({"redundancy": 0}, "redundancy must be at least 1, got 0"),
        ({"basis": "orthogonal", "solver": "pursuit"}, "solver='pursuit' finds frames only"),
    ],
)
def test_parameters_that_a_frame_does_not_know(parameters, message):
    rows = np.random.default_rng(0).standard_normal((20, 4))
    model = CEDAR(2, basis="frame").set_params(**parameters)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        model.fit(rows)


def test_check_estimator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's data are few and constant in places
        check_estimator(CEDAR(1, basis="frame"))


def test_what_a_frame_cannot_do(superposed):
    rows, _, model = superposed
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError, match="no attribute 'partial_fit'") as raised:
        clone(model).partial_fit(rows[:50])
    assert "for partial_fit, got 'frame'" in str(raised.value.__cause__)
