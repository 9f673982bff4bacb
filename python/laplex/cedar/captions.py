"""What an axis says: sentences that a BLIP model decodes from multiples of its atom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from laplex._support.optional import require


class Caption(NamedTuple):
    """A sentence, and how much of the atom it was decoded from.

    Attributes
    ----------
    alpha : float
        Value of the code on the axis.
    text : str
    """

    alpha: float
    text: str


def decode_captions(
    model: Any,
    processor: Any,
    axis: int,
    alphas: Sequence[float] | npt.NDArray[Any],
    *,
    cedar: Any,
    base: npt.ArrayLike | Tensor | None = None,
    **generate: Any,
) -> list[Caption]:
    r"""Decode :math:`b + \alpha\,a_i` to a sentence, for each alpha.

    An image gives BLIP's text decoder a sequence of vectors to attend to. Here the sequence is the
    one vector :math:`b + \alpha\,a_i`: atoms are single vectors, and to repeat one changes nothing,
    for attention to t equal keys is the mean of t equal values. Give `base` the whole sequence of
    an image to steer that image's caption instead: the multiple of the atom is added to each of its
    vectors.

    Parameters
    ----------
    model : transformers.BlipForConditionalGeneration
        In evaluation mode. Its public ``generate`` takes pixels only, so that we call its text
        decoder, with the arguments that ``generate`` passes on.
    processor : transformers.BlipProcessor
        Turns tokens into text.
    axis : int
        i, from 0 to d - 1.
    alphas : sequence of float ``[a]``
        Values of the code on the axis; negative ones show the atom's other end. The codes of the
        data say which are usual.
    cedar : CEDAR
        Fitted to the model's own image embeddings: rows of ``model.vision_model(pixels)[0]``, the
        first of each image for instance. Anything with ``mean_`` ``[d]`` and ``atoms_`` ``[d, d]``.
    base : array ``[d]`` or ``[t, d]``, optional
        In place of the mean b.
    **generate
        For transformers' ``generate``: ``max_new_tokens``, ``num_beams``, ... Without any, decoding
        is greedy up to the length in the decoder's generation config.

    Returns
    -------
    list of Caption
        In the order of `alphas`.

    Raises
    ------
    ImportError
        Without transformers: ``pip install "laplex[encoders]"``.
    TypeError, ValueError
        Another kind of model, or one in training mode; an axis out of range; no alphas, or not
        finite; a `base`, or a `cedar`, whose d is not the size that the decoder attends to.
    """
    transformers = require("transformers", extra="encoders", feature="decode_captions")
    if not isinstance(model, transformers.BlipForConditionalGeneration):
        raise TypeError(
            "model must be a BlipForConditionalGeneration of transformers, got "
            f"{type(model).__name__}"
        )
    if model.training:
        raise ValueError("model is in training mode, with dropout: call model.eval() first")
    values = _alphas(alphas)
    atom = _atom(axis, cedar)
    vectors = _base(cedar.mean_ if base is None else base)
    size = model.text_decoder.config.encoder_hidden_size
    for name, width in (("cedar's atoms", len(atom)), ("base", vectors.shape[1])):
        if width != size:
            raise ValueError(
                f"{name} must have d={size}, the hidden size of the model's image encoder, got "
                f"d={width}: fit CEDAR to rows of model.vision_model(pixels)[0]"
            )
    hidden = torch.from_numpy(vectors + values[:, None, None] * atom)
    tokens = _decode(model, hidden, **generate)
    # One at a time: what a processor's decode makes of a batch differs between versions.
    texts = [processor.decode(row, skip_special_tokens=True).strip() for row in tokens]
    return [Caption(alpha, text) for alpha, text in zip(values.tolist(), texts, strict=True)]


def _decode(model: Any, hidden: Tensor, **generate: Any) -> Tensor:
    """Generate tokens [a, length] from what the decoder attends to, [a, t, d].

    As `BlipForConditionalGeneration.generate` of transformers 5 does without a prompt: it makes
    [bos, eos], drops the last, and ends sentences at sep.
    """
    decoder, ids = model.text_decoder, model.config.text_config
    hidden = hidden.to(decoder.device, decoder.dtype)
    with torch.no_grad():
        tokens: Tensor = decoder.generate(
            input_ids=torch.full((len(hidden), 1), ids.bos_token_id, device=hidden.device),
            eos_token_id=ids.sep_token_id,
            pad_token_id=ids.pad_token_id,
            encoder_hidden_states=hidden,
            encoder_attention_mask=torch.ones(
                hidden.shape[:2], dtype=torch.long, device=hidden.device
            ),
            **generate,
        )
    return tokens


def _alphas(alphas: Any) -> npt.NDArray[np.float64]:
    values = np.asarray(alphas, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"alphas must be a list of at least one number, got {alphas!r}")
    if not np.isfinite(values).all():
        raise ValueError(f"alphas must be finite, got {values.tolist()}")
    return values


def _atom(axis: int, cedar: Any) -> npt.NDArray[np.float64]:
    atoms = np.asarray(cedar.atoms_, dtype=np.float64)
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be an integer, got {axis!r}")
    if not 0 <= axis < len(atoms):
        raise ValueError(f"axis must be in 0..{len(atoms) - 1}, got {axis}")
    atom: npt.NDArray[np.float64] = atoms[axis]
    return atom


def _base(base: Any) -> npt.NDArray[np.float64]:
    """Return the vectors [t, d] to which the atom is added."""
    if isinstance(base, Tensor):
        base = base.detach().cpu().double().numpy()
    vectors: npt.NDArray[np.float64] = np.asarray(base, dtype=np.float64)
    if vectors.ndim not in (1, 2) or vectors.size == 0:
        raise ValueError(f"base must have shape [d] or [t, d], got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("base must be finite, but has NaN or infinity")
    return np.atleast_2d(vectors)
