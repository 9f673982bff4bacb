"""`laplex.cedar.CEDAR`: identities, recovery of planted axes, contracts, files, bad input."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cedar_cases import planted, rotation_error
from laplex.cedar import CEDAR, ConstantColumnWarning, DriftWarning, TooFewRowsWarning
from laplex.cedar.basis import DenseBasis, random_rotation
from laplex.cedar.metrics import fve, mcc
from laplex.cedar.storage import _check_inverse
from laplex.cedar.topk import top_k
from strategies import quick

KINDS: dict[str, dict[str, Any]] = {
    "procrustes": {},
    "adam": {"solver": "adam", "max_iter": 30},
    "cayley": {"solver": "adam", "parametrization": "cayley", "max_iter": 30},
    "invertible": {"basis": "invertible", "max_iter": 30},
    "laplex": {"basis": "laplex", "heads": 3, "max_iter": 30},
    "learned centre": {"center": "learned"},
    "no centre": {"center": "none"},
    "several k": {"k": [2, 4]},
}


def make(kind: str, **changes: Any) -> CEDAR:
    return CEDAR(**{"k": 3, "random_state": 0, **KINDS[kind], **changes})


# Small matrices; see conftest.py.
pytestmark = pytest.mark.usefixtures("one_thread")


# --- the bottleneck -------------------------------------------------------------------------------


@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6),
    weights=st.none() | st.lists(st.integers(0, 3), min_size=5, max_size=5),
    k=st.integers(1, 6),
)
def test_top_k_is_its_definition_with_ties_to_the_lowest_index(
    values: list[list[int]], weights: list[int] | None, k: int
) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    kept = top_k(tensor, k, None if weights is None else torch.tensor(weights).double())
    for row, found in zip(values, kept.tolist(), strict=True):
        size = [abs(value) * (1 if weights is None else weights[i]) for i, value in enumerate(row)]
        chosen = sorted(range(5), key=lambda i: (-size[i], i))[:k]
        least = size[chosen[-1]]
        expected = [value if i in chosen else 0 for i, value in enumerate(row)]
        if least == 0:  # then nothing that weighs anything was left out, nor was it crowded
            expected = [v if size[i] > 0 or found[i] else 0 for i, v in enumerate(row)]
        assert found == expected


def test_gradient_passes_through_the_kept_entries_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 7, dtype=torch.float64, generator=generator).requires_grad_()
    kept = top_k(values, 3)
    (gradient,) = torch.autograd.grad(kept.square().sum(), values)
    assert torch.equal(gradient, 2 * kept.detach())
    assert torch.autograd.gradcheck(lambda v: top_k(v, 3), values)


# --- identities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_reconstructions_are_their_formulas(kind: str, dtype: Any) -> None:
    data = planted(300, 12, 3, seed=1).data.astype(dtype) + dtype(2)
    model = make(kind).fit(data)
    codes = model.transform(data)
    assert codes.dtype == model.mean_.dtype == dtype
    assert int((codes != 0).sum(1).max()) == model.k_
    coordinates = (data - model.mean_) @ model.components_.T
    # Products of 12 numbers of size 10, by two programs.
    room = 12 * 10 * np.finfo(dtype).eps * 10
    assert np.abs(np.where(codes != 0, coordinates - codes, 0)).max() < room
    importance = np.abs(coordinates) * np.linalg.norm(model.atoms_, axis=1)
    kept = np.where(codes != 0, importance, np.inf).min(1)
    left = np.where(codes != 0, 0, importance).max(1)
    assert (left <= kept + room).all()
    back = model.inverse_transform(codes)
    assert np.abs(back - (codes @ model.atoms_ + model.mean_)).max() < room
    whole = model.inverse_transform(model.transform(data, k=12))
    assert np.abs(whole - data).max() < 100 * room  # invertible: nothing is lost
    assert np.abs(model.components_ @ model.atoms_.T - np.eye(12)).max() < 1e-5
    assert model.score(data) == pytest.approx(fve(data, back), abs=1e-6)


@pytest.mark.parametrize("kind", ["procrustes", "adam", "cayley", "laplex", "learned centre"])
def test_rotations_are_orthogonal_on_every_path(kind: str, tmp_path: Path) -> None:
    data = planted(500, 24, 3, seed=2).data.astype(np.float32)
    model = make(kind, n_init=3).fit(data)
    assert rotation_error(model.restarts_) < 1e-5
    model.save(tmp_path / "model")
    assert rotation_error(CEDAR.load(tmp_path / "model").restarts_) < 1e-5
    model.partial_fit(data)
    assert rotation_error(model.components_[None]) < 1e-5


def test_procrustes_loss_never_grows_and_is_the_unexplained_variance() -> None:
    data = planted(2000, 16, 4, seed=3).data
    model = CEDAR(k=4, random_state=0, max_iter=25, tol=0).fit(data)
    rounding = 100 * np.finfo(np.float64).eps  # of sums of parts of 1
    assert (np.diff(model.loss_curve_) <= rounding).all()
    # The last loss is that of the rotation before the last update.
    assert 1 - model.score(data) <= model.loss_curve_[-1] + rounding
    again = CEDAR(k=4, random_state=0, max_iter=26, tol=0).fit(data)
    if again.n_iter_ > model.n_iter_:  # no pass was taken back
        assert again.loss_curve_[: model.n_iter_] == model.loss_curve_


def test_expm_and_cayley_have_the_same_solution() -> None:
    data = planted(1500, 8, 2, seed=4).data
    scores = [
        CEDAR(k=2, solver="adam", parametrization=form, max_iter=600, random_state=0)
        .fit(data)
        .score(data)
        for form in ("expm", "cayley")
    ]
    assert min(scores) > 0.99


def test_unit_of_the_data_does_not_matter() -> None:
    data = planted(500, 10, 2, seed=5).data
    for kind in ("procrustes", "adam", "invertible"):
        one = make(kind).fit(data)
        other = make(kind).fit(data * 2.0**20)
        assert np.allclose(one.components_, other.components_, atol=1e-9)


# --- recovery -------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [4, 8])
def test_planted_axes_are_found(k: int) -> None:
    train, test = planted(8000, 32, k, seed=k), planted(2000, 32, k, seed=k, draw=1)
    model = CEDAR(k=k, random_state=0).fit(train.data)
    assert mcc(model.atoms_, train.atoms) > 0.999
    assert model.score(test.data) > 0.999
    random = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0]
    assert mcc(random, train.atoms) < 0.5


def test_invertible_finds_atoms_that_are_not_orthogonal() -> None:
    case = planted(6000, 16, 2, seed=6, condition=10)
    rotation = CEDAR(k=2, random_state=0).fit(case.data)
    general = CEDAR(k=2, basis="invertible", random_state=0, max_iter=1000).fit(case.data)
    assert mcc(general.atoms_, case.atoms) > 0.99 > mcc(rotation.atoms_, case.atoms) + 0.02
    assert general.score(case.data) > rotation.score(case.data)
    assert np.allclose(np.linalg.norm(general.atoms_, axis=1), 1, atol=1e-6)


def test_gaussian_data_have_no_axes_to_find() -> None:
    random = np.random.default_rng(7)
    train, test = random.standard_normal((8000, 16)), random.standard_normal((8000, 16))
    fitted = CEDAR(k=4, random_state=0).fit(train).score(test)
    start = CEDAR(k=4, random_state=0, max_iter=1, solver="adam", learning_rate=1e-9).fit(train)
    # A part of a variance from 8000 rows of 16 numbers is known to a few thousandths.
    assert abs(fitted - start.score(test)) < 0.01


def test_learned_centre_beats_the_mean_where_causes_have_one_sign() -> None:
    case = planted(5000, 16, 2, seed=8, positive=True)
    mean = CEDAR(k=2, random_state=0).fit(case.data).score(case.data)
    learned = CEDAR(k=2, center="learned", random_state=0).fit(case.data)
    assert learned.score(case.data) > mean
    assert np.abs(learned.mean_).max() < 0.05  # the true centre is 0


def test_partial_fit_learns_from_a_stream() -> None:
    case = planted(16000, 16, 2, seed=9)
    for solver in ("procrustes", "adam"):
        model = CEDAR(k=2, solver=solver, random_state=0, batch_size=200)
        for batch in np.split(case.data, 40):
            model.partial_fit(batch)
        assert model.score(case.data) > 0.95, solver
        assert model.n_samples_seen_ == 16000
        assert np.allclose(model.mean_, case.data.mean(0), atol=1e-12)


@pytest.mark.parametrize("kind", ["procrustes", "adam", "invertible", "laplex", "learned centre"])
def test_partial_fit_goes_on_from_a_fit_or_a_file(kind: str, tmp_path: Path) -> None:
    case = planted(3000, 16, 2, seed=21)
    model = make(kind, k=2, max_iter=200, batch_size=100, learning_rate=0.003).fit(case.data)
    reached = model.score(case.data)
    model.save(tmp_path)
    loaded = CEDAR.load(tmp_path)
    for other in (model, loaded):
        other.partial_fit(case.data[:50])
        assert other.n_samples_seen_ == 3050
        assert other.score(case.data) > reached - 0.02
        assert np.abs(other.components_ @ other.atoms_.T - np.eye(16)).max() < 1e-5
    assert np.array_equal(model.components_, loaded.components_)
    with pytest.raises(ValueError, match="expecting 16 features"):
        model.partial_fit(case.data[:, :3])


@pytest.mark.parametrize("kind", ["procrustes", "adam", "invertible", "laplex"])
def test_a_bad_batch_leaves_no_trace(kind: str) -> None:
    data = planted(400, 16, 2, seed=22).data
    model, twin = (make(kind).partial_fit(data[:200]) for _ in range(2))
    for bad in (np.full((5, 16), 1e200), np.full((5, 16), np.nan)):
        with pytest.raises(ValueError, match=r"so large|NaN"):
            model.partial_fit(bad)
    model.partial_fit(data[200:])
    twin.partial_fit(data[200:])
    assert np.array_equal(model.components_, twin.components_)


@pytest.mark.parametrize("kind", ["procrustes", "adam", "invertible", "laplex"])
@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_tiny_and_huge_float32_are_learned_as_others(kind: str, unit: float) -> None:
    data = planted(600, 12, 2, seed=23).data
    usual = make(kind, k=2, max_iter=60).fit(data.astype(np.float32))
    scaled = (data * unit).astype(np.float32)
    model = make(kind, k=2, max_iter=60).fit(scaled)
    assert model.score(scaled) == pytest.approx(usual.score(data), abs=0.01)
    model.transform(scaled)  # without a DriftWarning
    with pytest.raises(ValueError, match=r"X is so (large|small) that its squares"):
        make(kind).fit(data * 1e200 ** np.sign(np.log(unit)))


# --- input in every form --------------------------------------------------------------------------


class Batches:
    """A loader: iterable again and again, labels beside the embeddings."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for part in np.array_split(self.data, 7):
            yield [torch.from_numpy(part), torch.zeros(len(part))]


@pytest.mark.parametrize("kind", ["procrustes", "adam", "invertible"])
def test_arrays_tensors_files_and_loaders_give_the_same(kind: str, tmp_path: Path) -> None:
    data = planted(700, 10, 2, seed=10).data
    np.save(tmp_path / "rows.npy", data)
    forms = {
        "read-only": np.array(data),
        "fortran": np.asfortranarray(data),
        "strided": np.repeat(data, 2, axis=0)[::2],
        "big-endian": data.astype(">f8"),
        "list": data.tolist(),
        "file": np.load(tmp_path / "rows.npy", mmap_mode="r"),
        "loader": Batches(data),
    }
    forms["read-only"].flags.writeable = False
    expected = make(kind, batch_size=700).fit(data)
    same_memory = make(kind, batch_size=700).fit(torch.from_numpy(data))
    assert np.array_equal(same_memory.components_, expected.components_)
    # These arrive in other batches, another order or other memory, by whose alignment too a matrix
    # product may round: the same up to rounding, which the steps of a fit amplify.
    for name, form in forms.items():
        model = make(kind, batch_size=700).fit(form)
        assert np.allclose(model.components_, expected.components_, atol=1e-6), name
        assert np.allclose(model.transform(form), model.transform(data), atol=1e-12), name


def test_short_floats_and_integers_are_taken() -> None:
    data = planted(200, 8, 2, seed=11).data
    assert make("procrustes").fit(data.astype(np.float16)).mean_.dtype == np.float32
    assert make("procrustes").fit(torch.from_numpy(data).bfloat16()).mean_.dtype == np.float32
    assert make("procrustes").fit((data * 10).astype(int)).mean_.dtype == np.float64


def test_large_files_are_warmed_up_on_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laplex.cedar.fitting._SAMPLE_ROWS", 500)
    monkeypatch.setattr("laplex.cedar.fitting._LEAST_ROWS", 1)
    monkeypatch.setattr("laplex.cedar.rows._BATCH_BYTES", 20_000)
    case = planted(4000, 16, 2, seed=12)
    np.save(tmp_path / "rows.npy", case.data)
    model = CEDAR(k=2, random_state=0).fit(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert mcc(model.atoms_, case.atoms) > 0.999
    assert model.n_iter_ < 12  # it started near the end


def test_empty_batches_are_passed_over_and_lost_rows_are_told() -> None:
    data = planted(300, 8, 2, seed=24).data
    model = make("procrustes").fit([data[:200], data[:0], data[200:]])
    assert np.allclose(model.components_, make("procrustes").fit(data).components_, atol=1e-6)

    class Shrinking:
        passes = 0

        def __iter__(self) -> Iterator[np.ndarray]:
            self.passes += 1
            yield data if self.passes < 4 else data[:100]

    with pytest.raises(ValueError, match="had 300 rows in the first pass and 100 in a later one"):
        make("procrustes").fit(Shrinking())


def test_generators_serve_where_one_pass_is_enough() -> None:
    data = planted(300, 8, 2, seed=13).data
    model = make("procrustes").fit(data)
    parts = (part for part in np.split(data, 3))
    assert np.allclose(model.transform(parts), model.transform(data), atol=1e-12)
    with pytest.raises(TypeError, match="can be iterated only once"):
        make("procrustes").fit(part for part in np.split(data, 3))


def test_sparse_output_is_the_dense_one() -> None:
    data = planted(100, 8, 2, seed=14).data
    model = make("procrustes").fit(data)
    dense = model.transform(data)
    sparse = model.set_params(sparse_output=True).transform(data)
    assert sparse.nnz == (dense != 0).sum()
    assert np.array_equal(sparse.toarray(), dense)
    # Products of 8 terms of a few units, from other memory.
    assert np.allclose(
        model.inverse_transform(sparse), model.inverse_transform(dense), rtol=0, atol=1e-13
    )


# --- steering, modules ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["procrustes", "invertible", "laplex"])
def test_intervention_sets_coordinates_and_leaves_the_others(kind: str) -> None:
    data = planted(200, 9, 2, seed=15).data
    model = make(kind).fit(data)

    def coordinates(z: np.ndarray) -> np.ndarray:
        return (z - model.mean_) @ model.components_.T

    moved = model.intervene(data, {2: 5.0, np.int64(4): -1.0})
    expected = coordinates(data)
    expected[:, 2], expected[:, 4] = 5.0, -1.0
    assert np.allclose(coordinates(moved), expected, atol=1e-9)
    assert np.allclose(model.intervene(data[0], {2: 5.0, 4: -1.0}), moved[0], atol=1e-12)
    assert isinstance(model.intervene(torch.from_numpy(data), {}), torch.Tensor)
    with pytest.raises(IndexError, match=r"axis 9 is not one of 0\.\.8"):
        model.intervene(data, {9: 1.0})
    with pytest.raises(ValueError, match=r"values\[2\] must be finite"):
        model.intervene(data, {2: float("nan")})
    with pytest.raises(TypeError, match="values must map axes"):
        model.intervene(data, [1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["procrustes", "invertible", "laplex"])
def test_torch_module_is_the_model_with_gradients(kind: str) -> None:
    data = planted(200, 9, 2, seed=16).data
    model = make(kind).fit(data)
    module = model.torch_module()
    rows = torch.from_numpy(data[:12]).reshape(3, 4, 9).requires_grad_()
    assert np.allclose(
        module.encode(rows).detach().reshape(12, 9).numpy(), model.transform(data)[:12], atol=1e-12
    )
    module(rows).sum().backward()
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())
    other = pickle.loads(pickle.dumps(module))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(rows), module(rows))
    with pytest.raises(ValueError, match=r"expected shape \[\.\.\., 9\]"):
        module.encode(torch.zeros(3))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_pickled_models_give_the_same_bits(kind: str, dtype: Any, tmp_path: Path) -> None:
    data = planted(300, 13, 2, seed=17).data.astype(dtype)
    model = make(kind, n_init=2).fit(data)
    model.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for other in (CEDAR.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        for count in (1, 3, 8, 300):  # a library chooses its product by the sizes
            rows = data[:count]
            codes = model.transform(rows)
            assert np.array_equal(other.transform(rows), codes)
            assert np.array_equal(other.inverse_transform(codes), model.inverse_transform(codes))
            tensor = torch.from_numpy(rows)
            assert torch.equal(other.torch_module()(tensor), model.torch_module()(tensor))
        assert np.array_equal(other.restarts_, model.restarts_)
        assert other.score(data) == model.score(data)
        assert other.loss_curve_ == model.loss_curve_
        assert other.scale_ == model.scale_
        assert repr(other) == repr(model)


def test_broken_models_are_refused(tmp_path: Path) -> None:
    model = make("procrustes").fit(planted(100, 6, 2, seed=18).data)
    with pytest.raises(FileNotFoundError, match="holds no model of CEDAR"):
        CEDAR.load(tmp_path)
    model.save(tmp_path)
    tensors = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(tensors[:-9])
    with pytest.raises(ValueError, match="damaged CEDAR model"):
        CEDAR.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(tensors)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        CEDAR.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a CEDAR model"):
        CEDAR.load(tmp_path)
    with pytest.raises(NotFittedError):
        CEDAR().save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_of_two_models_and_values_that_cannot_be_are_refused(tmp_path: Path) -> None:
    data = planted(100, 6, 2, seed=18).data
    make("procrustes").fit(data).save(tmp_path / "a")
    make("procrustes").fit(data[:50]).save(tmp_path / "b")
    config, tensors = tmp_path / "a" / "config.json", tmp_path / "a" / "model.safetensors"
    own = load_file(tensors)
    tensors.write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"not the one that config\.json was saved with"):
        CEDAR.load(tmp_path / "a")
    older = {
        key: value for key, value in json.loads(config.read_text()).items() if key != "tensors"
    }
    config.write_text(json.dumps(older))
    CEDAR.load(tmp_path / "a")  # saved before the files knew each other
    for name in own:
        save_file({**own, name: torch.full_like(own[name], torch.nan)}, tensors)
        with pytest.raises(ValueError, match=f"{name} has NaN or infinity"):
            CEDAR.load(tmp_path / "a")
    save_file(own, tensors)
    for name, value in {"k_": 7, "scale_": -1.0, "loss_curve_": [], "n_iter_": 2.5}.items():
        config.write_text(json.dumps({**older, "fitted": {**older["fitted"], name: value}}))
        with pytest.raises(ValueError, match="damaged CEDAR model"):
            CEDAR.load(tmp_path / "a")


def changed(folder: Path, config: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Write files that know each other, as one who means harm would."""
    save_file(tensors, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps({**config, "tensors": digest}))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["orthogonal", "invertible", "frame", "laplex"])
def test_files_of_no_consistent_model_are_refused(kind: str, tmp_path: Path) -> None:
    CEDAR(k=2, basis=kind, n_init=2, max_iter=3, random_state=0).fit(
        planted(100, 6, 2, seed=18).data
    ).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = load_file(tmp_path / "model.safetensors")

    def refused(config: Any, tensors: dict[str, torch.Tensor], message: str) -> None:
        changed(tmp_path, config, tensors)
        with pytest.raises(ValueError, match=f"damaged CEDAR model: .*{message}"):
            CEDAR.load(tmp_path)

    for name in tensors:
        part = name.partition(".")[2]
        if part in ("readouts", "atoms", "frame", "dual", "signs"):
            for factor in (0, 0.5, 100, 1e30):
                refused(config, {**tensors, name: tensors[name] * factor}, "not the inverse")
        if part:
            for other in ("start-5", "start7", "start01", "other"):
                renamed = dict(tensors)
                renamed[f"{other}.{part}"] = renamed.pop(name)
                refused(config, renamed, "(no basis consists of|not the inverse)")
    wrong: dict[str, tuple[Any, ...]] = {
        "k": (-5, "x", [], [0], None, True),
        "basis": ("os.system", None),
        "solver": ("best",),
        "n_init": (0,),
        "tol": (-1, "0"),
        "heads": (1.5,),
        "sparse_output": (1, None),
    }
    for name, values in wrong.items():
        for value in values:
            parameters = {**config["parameters"], name: value}
            refused({**config, "parameters": parameters}, tensors, name)
    for name in ("k_", "n_samples_seen_", "n_iter_"):
        known = {**config["fitted"], name: 10**400}
        refused({**config, "fitted": known}, tensors, f"{name} must be an integer")
    changed(tmp_path, config, tensors)
    CEDAR.load(tmp_path)
    for digest in ("", None, 0, [], "0" * 64):
        (tmp_path / "config.json").write_text(json.dumps({**config, "tensors": digest}))
        with pytest.raises(ValueError, match=r"not the one that config\.json was saved with"):
            CEDAR.load(tmp_path)


@quick
@given(
    st.integers(2, 30),
    st.floats(0, 6),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**32),
)
def test_an_inverse_is_known_as_one_for_any_condition(
    dim: int, digits: float, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    left, right = (random_rotation(dim, random) for _ in range(2))
    scales = torch.logspace(-digits / 2, digits / 2, dim, dtype=torch.float64)
    _check_inverse(
        DenseBasis(((left * scales) @ right).to(dtype), ((left / scales) @ right).to(dtype)), dtype
    )


def test_parameters_come_back_or_are_not_saved(tmp_path: Path) -> None:
    data = planted(100, 6, 2, seed=18).data
    plain: Any = {"tol": Fraction(1, 8), "sparse_output": np.bool_(False)}
    model = CEDAR(k=range(1, 3), random_state=np.int64(3), **plain).fit(data)
    model.save(tmp_path)
    assert np.array_equal(CEDAR.load(tmp_path).fit(data).atoms_, model.atoms_)
    for name, value in {"k": "x", "basis": "none", "tol": object()}.items():
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            CEDAR(k=2).fit(data).set_params(**{name: value}).save(tmp_path)
    assert np.array_equal(CEDAR.load(tmp_path).atoms_, model.atoms_)


def test_a_code_of_all_columns_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="nothing to learn: pass a k well below"):
        CEDAR(k=6, random_state=0).fit(ROWS)


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("memory_mapped", [False, True])
@pytest.mark.parametrize("kind", ["procrustes", "adam", "invertible", "laplex", "learned centre"])
def test_a_resumed_fit_has_the_same_bits(
    kind: str, memory_mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laplex.cedar.fitting._STEPS_PER_CHECKPOINT", 4)
    data: Any = planted(400, 12, 3, seed=19).data
    if memory_mapped:
        np.save(tmp_path / "rows.npy", data)
        data = np.load(tmp_path / "rows.npy", mmap_mode="r")
    model = make(kind, n_init=2, batch_size=64, max_iter=30, tol=0)
    expected = clone(model).fit(data)
    path = tmp_path / "fit.checkpoint"
    from laplex.cedar import fitting

    keep, calls = fitting._Run._keep, iter(range(5))

    def stopping(self: Any, start: int, state: Any) -> None:
        keep(self, start, state)
        if next(calls, None) is None:
            raise _Stopped

    with monkeypatch.context() as patch:
        patch.setattr(fitting._Run, "_keep", stopping)
        with pytest.raises(_Stopped):
            clone(model).fit(data, checkpoint=path)
    resumed = clone(model).fit(data, checkpoint=path, resume=True)
    assert np.array_equal(resumed.restarts_, expected.restarts_)
    assert resumed.loss_curve_ == expected.loss_curve_
    with pytest.raises(ValueError, match="belongs to another fit, with another ks"):
        clone(model).set_params(k=4).fit(data, checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="another random_state"):
        clone(model).set_params(random_state=1).fit(data, checkpoint=path, resume=True)
    anyone = clone(model).set_params(random_state=None).fit(data, checkpoint=path, resume=True)
    assert np.array_equal(anyone.restarts_, expected.restarts_)
    with pytest.raises(ValueError, match="another number of rows"):
        clone(model).fit(data[:399], checkpoint=path, resume=True)


def test_checkpoints_that_will_not_do_are_refused(tmp_path: Path) -> None:
    data = planted(100, 6, 2, seed=20).data
    (tmp_path / "noise").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"not a checkpoint of CEDAR\.fit, or it is damaged"):
        make("procrustes").fit(data, checkpoint=tmp_path / "noise", resume=True)
    with pytest.raises(
        ValueError, match=r"not a checkpoint of CEDAR\.fit"
    ):  # nothing is written over
        make("procrustes").fit(data, checkpoint=tmp_path / "noise")
    assert (tmp_path / "noise").read_bytes() == b"no checkpoint"
    with pytest.raises(ValueError, match="resume=True needs the path"):
        make("procrustes").fit(data, resume=True)
    with pytest.raises(ValueError, match="its folder does not exist"):
        make("procrustes").fit(data, checkpoint=tmp_path / "none" / "file")


# --- bad input ------------------------------------------------------------------------------------

ROWS = np.random.default_rng(0).standard_normal((40, 6))


def with_nan(row: int) -> np.ndarray:
    data = ROWS.copy()
    data[row, 2] = np.nan
    return data


@pytest.mark.parametrize(
    ("changes", "data", "error", "message"),
    [
        ({}, with_nan(17), ValueError, "X has NaN or infinity in row 17"),
        ({}, torch.from_numpy(with_nan(39)), ValueError, "in row 39"),
        ({}, [ROWS, with_nan(3)], ValueError, "in row 43"),
        ({"k": 7}, ROWS, ValueError, r"k=7 is more than the 6 features of X.*at most 6"),
        ({"k": [2, 9]}, ROWS, ValueError, "k=9"),
        ({"k": 0}, ROWS, ValueError, "k must be at least 1"),
        ({"k": []}, ROWS, ValueError, "k is empty"),
        ({"k": 2.5}, ROWS, TypeError, "k must be an integer"),
        ({}, ROWS[:1], ValueError, r"1 sample\(s\).*at least 2 rows"),
        ({}, ROWS[:0], ValueError, r"0 sample\(s\)"),
        ({}, np.ones((9, 6)), ValueError, "all 9 rows of X are the same"),
        ({}, ROWS[0], ValueError, "Reshape your data"),
        ({}, "rows.npy", FileNotFoundError, r"there is no file rows\.npy"),
        ({}, [{"a": ROWS, "b": ROWS}], TypeError, r"mappings with a, b: pass Embeddings\(X, key="),
        (
            {"basis": "invertible", "max_iter": 20, "learning_rate": 10.0},
            ROWS,
            ValueError,
            "the fit diverged",
        ),
        ({}, ROWS + 1j, ValueError, "Complex data not supported"),
        ({}, [ROWS, ROWS[:, :5]], ValueError, r"each must be \[b, 6\]"),
        ({"basis": "rotation"}, ROWS, ValueError, "basis must be 'orthogonal'"),
        ({"solver": "sgd"}, ROWS, ValueError, "solver must be 'auto'"),
        ({"center": "median"}, ROWS, ValueError, "center must be"),
        ({"n_init": 0}, ROWS, ValueError, "n_init must be at least 1"),
        ({"max_iter": 0}, ROWS, ValueError, "max_iter must be at least 1"),
        ({"tol": -1.0}, ROWS, ValueError, "tol must not be negative"),
        ({"learning_rate": 0.0}, ROWS, ValueError, "learning_rate must be positive"),
        (
            {"basis": "invertible", "solver": "procrustes"},
            ROWS,
            ValueError,
            "solver='procrustes' finds rotations",
        ),
    ],
)
def test_bad_input_has_its_message(
    changes: dict[str, Any], data: Any, error: type[Exception], message: str
) -> None:
    model = CEDAR(**{"k": 2, "random_state": 0, **changes})
    with pytest.raises(error, match=message):
        model.fit(data)
    assert vars(model).keys() == CEDAR().__dict__.keys()  # nothing half done
    fitted = CEDAR(k=2, random_state=0).fit(ROWS)
    before = fitted.transform(ROWS)
    fitted.set_params(**changes)
    with pytest.raises(error, match=message):
        fitted.fit(data)
    assert np.array_equal(fitted.transform(ROWS), before)


def test_constant_columns_are_told() -> None:
    data = ROWS.copy()
    data[:, [1, 4]] = 3.0
    with pytest.warns(ConstantColumnWarning, match=r"2 constant columns \(1, 4\)"):
        model = CEDAR(k=2, random_state=0).fit(data)
    assert np.allclose(model.inverse_transform(model.transform(data))[:, 1], 3)


def test_width_is_checked_at_transform() -> None:
    model = CEDAR(k=2, random_state=0).fit(ROWS)
    for call in (model.transform, model.score, model.inverse_transform, model.partial_fit):
        with pytest.raises(ValueError, match=r"CEDAR is expecting 6 features|constant"):
            call(
                np.random.default_rng(0).standard_normal((40, 5))
            ) if call != model.partial_fit else model.transform(ROWS[:, :5])
    with pytest.raises(ValueError, match="k=7 is more than the 6 features"):
        model.transform(ROWS, k=7)
    with pytest.raises(NotFittedError):
        CEDAR().transform(ROWS)


def test_drifted_embeddings_are_told(tmp_path: Path) -> None:
    CEDAR(k=2, random_state=0).fit(ROWS).save(tmp_path)
    model = CEDAR.load(tmp_path)
    with pytest.warns(DriftWarning, match="the mean of X is"):
        model.transform(ROWS + 2)
    with pytest.warns(DriftWarning, match="times as long as those of the fit"):
        model.transform(ROWS * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.transform(ROWS)
        model.transform(ROWS[:3] + 2)  # of three rows nothing can be said


# --- scikit-learn ---------------------------------------------------------------------------------


@parametrize_with_checks(
    [
        CEDAR(k=1, max_iter=10),
        CEDAR(k=1, solver="adam", max_iter=3),
        CEDAR(k=1, basis="invertible", max_iter=3),
        CEDAR(k=1, basis="laplex", heads=2, max_iter=3),
    ]
)
@pytest.mark.filterwarnings("ignore::laplex.cedar.ConstantColumnWarning")
@pytest.mark.filterwarnings("ignore::laplex.cedar.DriftWarning")
@pytest.mark.filterwarnings("ignore:Estimator CEDAR:sklearn.exceptions.EstimatorCheckFailedWarning")
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_transform_is_a_parameter_and_a_method() -> None:
    model = CEDAR(k=2, basis="invertible", max_iter=5)
    assert model.get_params()["basis"] == "invertible"
    assert "basis='invertible'" in repr(model)
    assert clone(model).get_params() == model.get_params()
    model.set_params(basis="orthogonal").fit(ROWS)
    assert callable(model.transform)
    assert rotation_error(model.components_[None]) < 1e-12
    chain = make_pipeline(StandardScaler(), CEDAR(k=2, random_state=0)).fit(ROWS)
    assert chain.transform(ROWS).shape == (40, 6)
    assert list(chain[-1].get_feature_names_out()) == [f"cedar{i}" for i in range(6)]


def test_the_parameter_s_former_name_works_for_a_release(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="transform of CEDAR is now called basis"):
        model = CEDAR(k=2, transform="laplex", heads=2, max_iter=3, random_state=0)
    assert model.get_params()["basis"] == "laplex"
    assert np.array_equal(model.fit(ROWS).atoms_, clone(model).fit(ROWS).atoms_)
    model.save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"basis"', '"transform"'))
    assert CEDAR.load(tmp_path / "model").get_params()["basis"] == "laplex"
    with pytest.warns(DeprecationWarning, match="now called basis"):
        assert CEDAR().set_params(transform="invertible").basis == "invertible"
    state = model.__getstate__()
    older = CEDAR.__new__(CEDAR)
    older.__setstate__({**state, "transform": state.pop("basis")})
    assert np.array_equal(older.transform(ROWS), model.transform(ROWS))
    with pytest.raises(TypeError, match="both basis and transform"):
        CEDAR(k=2, basis="laplex", transform="laplex")


def test_same_seed_same_model_for_any_number_of_starts() -> None:
    one = CEDAR(k=2, random_state=3).fit(ROWS)
    with pytest.warns(TooFewRowsWarning, match="40 rows are few for 6 columns"):
        several = CEDAR(k=2, random_state=3, n_init=4).fit(ROWS)
    assert len(several.bases_) == 4
    assert np.array_equal(one.components_, several.components_)
    assert several.loss_curve_ == one.loss_curve_
    assert not np.array_equal(one.components_, CEDAR(k=2, random_state=4).fit(ROWS).components_)


@pytest.mark.filterwarnings("ignore:k=.* keeps as many entries:UserWarning")
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 12), dim=st.integers(1, 8), seed=st.integers(0, 99), data=st.data())
def test_any_small_input_is_fitted(rows: int, dim: int, seed: int, data: Any) -> None:
    values = np.random.default_rng(seed).integers(-2, 3, (rows, dim)).astype(float)
    values[0, 0], values[1, 0] = 0, 1  # not all the same
    k = data.draw(st.integers(1, dim))
    kind = data.draw(st.sampled_from(["procrustes", "invertible", "laplex"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantColumnWarning)
        model = make(kind, k=k, max_iter=5).fit(values)
    codes = model.transform(values)
    assert ((codes != 0).sum(1) <= k).all()
    assert np.isfinite(model.inverse_transform(codes)).all()
    assert np.abs(model.components_ @ model.atoms_.T - np.eye(dim)).max() < 1e-5
