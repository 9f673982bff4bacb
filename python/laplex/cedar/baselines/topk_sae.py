"""A minimal TopK sparse autoencoder for given embeddings.

The existing packages bring large dependencies: overcomplete 0.3, the nearest, needs timm,
torchvision and OpenCV; sae-lens, dictionary-learning and eai-sparsify need a language-model stack.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.utils.validation import check_scalar
from torch import Tensor
from torch.nn.functional import normalize

from ..statistics import Statistics
from ..topk import top_k
from .dictionary import BASELINES, MAX_ROWS, Dictionary

#: Weight of the auxiliary loss (Gao et al., appendix A.2).
_AUXILIARY_WEIGHT = 1 / 32
#: Fraction of the steps, at the end, in which the learning rate falls to 0 (not in Gao et al.).
_DECAY = 0.2


@BASELINES.register("topk-sae", order=5)
class TopKSAE(Dictionary):
    r"""TopK sparse autoencoder: an overcomplete dictionary with a linear encoder.

    .. math::
        s = T_k\bigl(\mathrm{ReLU}(E (z - b))\bigr), \qquad \hat z = b + D^\top s, \qquad
        \|d_i\| = 1

    The method follows Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093.
    E starts as D, and b starts as the mean. Adam minimises the squared error as a fraction of the
    variance. The gradient of D has no component along the atoms, which are normalised after each
    step. Of the latents that have not fired for ``dead_after`` steps, the d/2 strongest model the
    residual, with a weight of 1/32.

    Parameters
    ----------
    k : int
        Number of nonzero latents of a row in training; ``transform`` accepts another k.
    expansion : int
        Number of latents divided by d.
    steps : int
        Number of training steps, whatever the number of rows.
    batch_size : int
        Number of rows in a step, drawn with replacement.
    learning_rate : float
        Learning rate of Adam: constant for four fifths of the steps, then falling linearly to 0.
    dead_after : int
        Number of steps without firing after which a latent counts as dead.
    max_rows : int
        Largest number of rows in memory; more rows are sampled uniformly.
    device : str
        Device to train on.
    random_state : int, RandomState or None
        Seed of everything random.

    Attributes
    ----------
    mean_ : ndarray ``[d]``
        The learned centre b.
    readouts_, atoms_ : ndarray ``[axes, d]``
        The rows of E and D.
    loss_curve_ : list of float
        Squared error of the batch of each step, as a fraction of the variance.
    """

    _limits: ClassVar = {
        **dict.fromkeys(("k", "expansion", "batch_size", "dead_after"), (Integral, 1)),
        "steps": (Integral, 0),
    }

    def __init__(
        self,
        k: int = 32,
        *,
        expansion: int = 4,
        steps: int = 2000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        dead_after: int = 200,
        max_rows: int = MAX_ROWS,
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.k = k
        self.expansion = expansion
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dead_after = dead_after
        self.max_rows = max_rows
        self.device = device
        self.random_state = random_state

    @property
    def name(self) -> str:
        """The name of the method in tables."""
        return f"TopK SAE, {self.expansion}x"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(
            self.learning_rate, "learning_rate", Real, min_val=0, include_boundaries="neither"
        )

    def _learn(self, found: Statistics) -> None:
        axes = self.expansion * self.n_features_in_
        if self.k > axes:
            raise ValueError(
                f"k must be at most {axes}, expansion times the number of features, got {self.k}"
            )
        generator = self._generator()
        # Rows of mean square norm 1, so that the learning rate does not depend on the data's unit.
        rows = (found.sample.double() - found.mean).div(found.scale).float().to(self.device)
        start = torch.randn(axes, self.n_features_in_, generator=generator)
        decoder = normalize(start).to(self.device).requires_grad_()
        encoder = decoder.detach().clone().requires_grad_()
        bias = torch.zeros(self.n_features_in_, device=self.device, requires_grad=True)
        self.loss_curve_ = self._train(rows, encoder, decoder, bias, generator)
        self.mean_ = self.mean_ + found.scale * bias.detach().double().cpu().numpy()
        self.readouts_ = encoder.detach().double().cpu().numpy()
        self.atoms_ = normalize(decoder.detach().double()).cpu().numpy()

    def _encode(self, z: Tensor, k: int) -> Tensor:
        return top_k((z @ torch.from_numpy(self.readouts_).to(z.dtype).T).relu(), k)

    def _train(
        self, rows: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, random: torch.Generator
    ) -> list[float]:
        """Train the parameters in place and return the loss of every step."""
        # Adam's epsilon is Gao et al.'s: gradients of rare latents are smaller than its default.
        adam = torch.optim.Adam([encoder, decoder, bias], self.learning_rate, eps=6.25e-10)
        falling = max(1.0, _DECAY * self.steps)
        silent = torch.zeros(len(decoder), dtype=torch.int64, device=rows.device)
        losses: list[float] = []
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = self.learning_rate * min(1, (self.steps - step) / falling)
            index = torch.randint(len(rows), (self.batch_size,), generator=random)
            batch = rows[index.to(rows.device)]
            latents = ((batch - bias) @ encoder.T).relu()
            codes = top_k(latents, self.k)
            residual = batch - bias - codes @ decoder
            loss = residual.square().sum(1).mean()
            losses.append(float(loss.detach()))

            silent += 1
            silent[(codes.detach() > 0).any(0)] = 0
            dead = (silent > self.dead_after).nonzero()[:, 0]
            if dead.numel():
                revived = top_k(latents[:, dead], max(1, rows.shape[1] // 2)) @ decoder[dead]
                target = residual.detach()
                unexplained = (target - revived).square().sum() / target.square().sum()
                if bool(unexplained.isfinite()):  # 0/0 where nothing is left to explain
                    loss = loss + _AUXILIARY_WEIGHT * unexplained

            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                if decoder.grad is not None:
                    along = (decoder.grad * decoder).sum(1, keepdim=True)
                    decoder.grad -= along * decoder
                adam.step()
                decoder /= decoder.norm(dim=1, keepdim=True)
        return losses
