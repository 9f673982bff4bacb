"""The methods that cedar_comparison.py measures, behind one interface.

SAELens' own trainer trains the sparse autoencoders (``pip install sae-lens``), scikit-learn the
dictionaries and the independent components. What those libraries lack is here: an AbsTopK
autoencoder with a tied encoder, one with a random decoder that is never trained, and our reading of
ICA Lens.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import FastICA, MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning

from laplex.cedar import CEDAR
from laplex.cedar.baselines import PCA, RandomRotation

Array = np.ndarray


@dataclass
class Task:
    """What a method gets: centred training rows [n, d], k, a budget, a rate and a seed."""

    rows: Array
    k: int
    latents: int  # of the overcomplete methods
    steps: int
    batch: int
    rate: float
    seed: int
    all_k: tuple[int, ...]  # of the data set, for the CEDAR that serves all of them


@dataclass
class Fitted:
    """A fitted method: signed codes [n, axes] of centred rows, and the atoms [axes, d]."""

    encode: Callable[[Array, int], Array]
    atoms: Array
    indexed: bool = True  # whether each row chooses its entries, which costs bits

    def decode(self, codes: Array) -> Array:
        return codes @ self.atoms


@dataclass(frozen=True)
class Method:
    """A method by the name of its line in the tables.

    ``rates`` are the values that the tuning tries: of the learning rate, or of what the method has
    in its place. A method without any has nothing to tune. ``fits_k`` says whether the fit depends
    on k.
    """

    name: str
    fit: Callable[[Task], Fitted]
    rates: tuple[float, ...] = ()
    fits_k: bool = True


# --- complete bases -------------------------------------------------------------------------------


def _of(model: Any) -> Fitted:
    """Wrap a fitted model of laplex; the rows are centred already, so its mean is about 0."""
    atoms = np.asarray(model.atoms_, np.float32)
    return Fitted(model.transform, atoms, getattr(model, "indexed", True))


def random_rotation(task: Task) -> Fitted:
    return _of(RandomRotation(random_state=task.seed).fit(task.rows))


def cedar(task: Task) -> Fitted:
    return _of(CEDAR(task.k, random_state=task.seed).fit(task.rows))


def cedar_all_k(task: Task) -> Fitted:
    return _of(CEDAR(list(task.all_k), random_state=task.seed).fit(task.rows))


def cedar_frame(task: Task) -> Fitted:
    return _of(CEDAR(task.k, basis="frame", redundancy=2, random_state=task.seed).fit(task.rows))


def cedar_invertible(task: Task) -> Fitted:
    return _of(
        CEDAR(
            task.k,
            basis="invertible",
            solver="adam",
            learning_rate=task.rate,
            max_iter=task.steps,
            random_state=task.seed,
        ).fit(task.rows)
    )


def ica_lens(task: Task) -> Fitted:
    """Independent components, made stable: our reading of the abstract of arXiv 2606.11722.

    The abstract names "stability recipes" for FastICA and does not give them. Ours: components are
    estimated on rows of length 1, so that a few long rows do not decide; directions with less than
    1e-3 of the largest variance are dropped before whitening; log cosh in float64, up to 300
    iterations.
    """
    rows = task.rows.astype(np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    variances, axes = np.linalg.eigh(unit.T @ unit / len(unit))
    kept = variances > 1e-3 * variances[-1]
    axes, deviations = axes[:, kept].T, np.sqrt(variances[kept])
    model = FastICA(whiten=False, fun="logcosh", max_iter=300, tol=1e-4, random_state=task.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(unit @ (axes.T / deviations))
    left, _, right = np.linalg.svd(model.components_)
    rotation = left @ right
    readouts, atoms = (rotation / deviations) @ axes, (rotation * deviations) @ axes
    # Atoms of length 1, so that the largest entries are the largest contributions.
    lengths = np.linalg.norm(atoms, axis=1, keepdims=True)
    readouts, atoms = (readouts * lengths).astype(np.float32), (atoms / lengths).astype(np.float32)
    return Fitted(lambda rows, k: top(rows @ readouts.T, k), atoms)


def top(values: Array, k: int, *, signed: bool = True) -> Array:
    """Keep the k largest entries of each row: in absolute value, or only the positive ones."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if not signed:
        tensor = tensor.relu()
    index = tensor.abs().topk(min(k, tensor.shape[1]), dim=1).indices
    return torch.zeros_like(tensor).scatter_(1, index, tensor.gather(1, index)).numpy()


# --- scikit-learn's dictionary learning -----------------------------------------------------------


def dictionary(task: Task) -> Fitted:
    """Online dictionary learning (Mairal et al. 2009) with codes by orthogonal matching pursuit."""
    scale = np.linalg.norm(task.rows, axis=1).mean()
    rows = task.rows / scale
    epochs = max(1, task.steps * task.batch // (4 * len(rows)))
    model = MiniBatchDictionaryLearning(
        task.latents,
        alpha=task.rate,
        max_iter=epochs,
        batch_size=256,
        fit_algorithm="cd",
        transform_max_iter=100,
        tol=0,
        max_no_improvement=None,
        random_state=task.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows)
    atoms = model.components_
    atoms = (atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)).astype(
        np.float32
    )

    def encode(rows: Array, k: int) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sparse_encode(rows, atoms, algorithm="omp", n_nonzero_coefs=k)

    return Fitted(encode, atoms)


# --- sparse autoencoders by SAELens ---------------------------------------------------------------


def sae(kind: str, factor: int = 4, *, tied: bool = False, frozen: bool = False) -> Any:
    """Return a fit of a SAELens autoencoder; ``factor`` is the number of latents divided by d.

    SAELens' conventions: rows scaled to mean norm sqrt(d), decoder rows of norm 0.1 at the start
    and the encoder their transpose, Adam, clipped gradients, its auxiliary losses. The rate warms
    up in a tenth of the steps and falls to 0 in the last fifth.
    """

    def fit(task: Task) -> Fitted:
        dim = task.rows.shape[1]
        latents = dim if factor == 1 else task.latents
        torch.manual_seed(task.seed)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            model = _model(kind, dim, latents, task, tied)
            if frozen:
                model.W_dec.requires_grad_(False)
            return _trained(kind, model, task)

    return fit


def _model(kind: str, dim: int, latents: int, task: Task, tied: bool) -> Any:
    os.environ.setdefault("WANDB_MODE", "disabled")
    from sae_lens.saes import abstopk_sae, batchtopk_sae, jumprelu_sae, topk_sae
    from sae_lens.saes import matching_pursuit_sae as pursuit
    from sae_lens.saes import matryoshka_batchtopk_sae as matryoshka

    shared = {"d_in": dim, "d_sae": latents, "normalize_activations": "expected_average_only_in"}
    if kind == "topk":
        return topk_sae.TopKTrainingSAE(topk_sae.TopKTrainingSAEConfig(k=task.k, **shared))
    if kind == "batchtopk":
        config = batchtopk_sae.BatchTopKTrainingSAEConfig(k=task.k, **shared)
        return batchtopk_sae.BatchTopKTrainingSAE(config)
    if kind == "matryoshka":
        widths = [latents // 16, latents // 4, latents]
        settings = matryoshka.MatryoshkaBatchTopKTrainingSAEConfig(
            k=task.k, matryoshka_widths=widths, **shared
        )
        return matryoshka.MatryoshkaBatchTopKTrainingSAE(settings)
    if kind == "jumprelu":
        return jumprelu_sae.JumpReLUTrainingSAE(
            jumprelu_sae.JumpReLUTrainingSAEConfig(
                jumprelu_sparsity_loss_mode="quadratic",
                target_l0=task.k,
                l0_coefficient=0.3,
                l0_warm_up_steps=task.steps // 10,
                jumprelu_ste_to_input=True,
                **shared,
            )
        )
    if kind == "pursuit":
        return pursuit.MatchingPursuitTrainingSAE(
            pursuit.MatchingPursuitTrainingSAEConfig(
                max_iterations=task.k, decoder_init_norm=1.0, **shared
            )
        )
    base = abstopk_sae.AbsTopKTrainingSAE

    class Tied(base):  # type: ignore[misc, valid-type]
        """AbsTopK with the decoder's transpose as encoder; SAELens ties matching pursuit alike."""

        @property
        def W_enc(self) -> Any:
            return self.W_dec.T

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "W_enc":
                super().__setattr__(name, value)

    # Tied atoms of norm 1 give a row the right size from the start, as in matching pursuit.
    shared["decoder_init_norm"] = 1.0 if tied else 0.1
    return (Tied if tied else base)(abstopk_sae.AbsTopKTrainingSAEConfig(k=task.k, **shared))


def _trained(kind: str, model: Any, task: Task) -> Fitted:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    rows = torch.from_numpy(task.rows).float()
    random = torch.Generator().manual_seed(task.seed)

    def batches() -> Iterator[Any]:
        while True:
            yield rows[torch.randint(len(rows), (task.batch,), generator=random)]

    SAETrainer(
        SAETrainerConfig(
            total_training_samples=task.steps * task.batch,
            train_batch_size_samples=task.batch,
            lr=task.rate,
            lr_end=0.0,
            lr_warm_up_steps=task.steps // 10,
            lr_decay_steps=task.steps // 5,
            dead_feature_window=max(50, task.steps // 10),
            n_batches_for_norm_estimate=20,
        ),
        model,
        batches(),
    ).fit()
    model.eval()
    atoms = model.W_dec.detach()
    lengths = atoms.norm(dim=1)
    offset = model.b_dec.detach().numpy()

    @torch.no_grad()
    def before(rows: Array) -> torch.Tensor:
        """Pre-activations in units of what a latent contributes: for atoms of length 1."""
        hidden = (torch.from_numpy(rows).float() - model.b_dec) @ model.W_enc + model.b_enc
        return hidden * lengths

    if kind == "pursuit":
        from sae_lens.saes.matching_pursuit_sae import _encode_matching_pursuit as pursue

        @torch.no_grad()
        def encode(rows: Array, k: int) -> Array:
            centred = torch.from_numpy(rows).float() - model.b_dec
            return (pursue(centred, atoms, 0.0, k, True) * lengths).numpy()

    elif kind in ("batchtopk", "matryoshka"):
        threshold = _thresholds(before(task.rows).relu().numpy())

        def encode(rows: Array, k: int) -> Array:
            values = before(rows).relu().numpy()
            return np.where(values > threshold(k), values, 0)

    elif kind == "jumprelu":
        limits = (model.threshold.detach() * lengths).clamp(min=1e-9).numpy()
        threshold = _thresholds(before(task.rows).relu().numpy() / limits)

        def encode(rows: Array, k: int) -> Array:
            values = before(rows).relu().numpy()
            return np.where(values / limits > threshold(k), values, 0)

    else:

        def encode(rows: Array, k: int) -> Array:
            return top(before(rows).numpy(), k, signed=kind == "abstopk")

    unit = (atoms / lengths[:, None]).numpy()
    return _Shifted(encode, unit, True, offset)


@dataclass
class _Shifted(Fitted):
    """Codes for a reconstruction with an offset, the decoder's bias."""

    offset: Array | float = 0.0

    def decode(self, codes: Array) -> Array:
        return codes @ self.atoms + self.offset


def _thresholds(values: Array) -> Callable[[int], float]:
    """Return the threshold above which the rows [n, latents] have k entries on average, by k."""

    @lru_cache
    def threshold(k: int) -> float:
        place = max(0, values.size - 1 - k * len(values))
        return float(np.partition(values, place, axis=None)[place])

    return threshold


RATES = (0.002, 0.006, 0.02)
METHODS = [
    Method("random rotation", random_rotation, fits_k=False),
    Method("PCA, leading k", lambda task: _of(PCA("leading").fit(task.rows)), fits_k=False),
    Method("PCA, per-row top k", lambda task: _of(PCA().fit(task.rows)), fits_k=False),
    Method("ICA Lens, our reading", ica_lens, fits_k=False),
    Method("CEDAR", cedar),
    Method("CEDAR, all k at once", cedar_all_k, fits_k=False),
    Method("CEDAR, invertible", cedar_invertible, (0.003, 0.01, 0.03)),
    Method("CEDAR, frame 2x", cedar_frame),
    Method("AbsTopK 1x, tied", sae("abstopk", 1, tied=True), (0.0007, *RATES)),
    Method("AbsTopK 1x", sae("abstopk", 1), RATES),
    Method("AbsTopK 4x", sae("abstopk"), RATES),
    Method("TopK 4x, random decoder", sae("topk", frozen=True), RATES),
    Method("TopK 4x", sae("topk"), RATES),
    Method("BatchTopK 4x", sae("batchtopk"), RATES),
    Method("Matryoshka 4x", sae("matryoshka"), RATES),
    Method("JumpReLU 4x", sae("jumprelu"), RATES),
    Method("matching pursuit 4x", sae("pursuit"), RATES),
    Method("dictionary + OMP 4x", dictionary, (0.03, 0.1, 0.3)),
]
