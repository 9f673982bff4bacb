"""Captions for axes: sentences that a BLIP model decodes from multiples of an atom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from laplex._support.optional import require


class Caption(NamedTuple):
    """A sentence and the multiple of the atom from which it was decoded.

    Attributes
    ----------
    alpha : float
        Value of the code on the axis.
    text : str
        The sentence.
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
    r"""Decode :math:`b + \alpha\,a_i` into a sentence, for each alpha.

    For an image, BLIP's text decoder attends to a sequence of vectors. Here the sequence is the
    single vector :math:`b + \alpha\,a_i`. Repeating it would change nothing, because attention to
    t equal keys is the mean of t equal values. To steer the caption of an image instead, pass its
    whole sequence as ``base``: the multiple of the atom is then added to each of its vectors.

    Parameters
    ----------
    model : transformers.BlipForConditionalGeneration
        The model, in evaluation mode. Its public ``generate`` takes only pixels, so this function
        calls its text decoder with the arguments that ``generate`` would pass on.
    processor : transformers.BlipProcessor
        Turns tokens into text.
    axis : int
        The axis i, from 0 to d - 1.
    alphas : sequence of float ``[a]``
        Values of the code on the axis. Negative values show the other end of the axis. The codes
        of your data show which values are usual.
    cedar : CEDAR
        A model fitted to image embeddings of the same BLIP model: rows of
        ``model.vision_model(pixels)[0]``, for instance the first of each image. Any object with
        ``mean_`` ``[d]`` and ``atoms_`` ``[d, d]`` is accepted.
    base : array ``[d]`` or ``[t, d]``, optional
        Vectors to use in place of the mean b.
    **generate
        Arguments of the ``generate`` method of transformers, such as ``max_new_tokens`` or
        ``num_beams``. Without any, decoding is greedy up to the length in the generation
        configuration of the decoder.

    Returns
    -------
    list of Caption
        One caption for each of ``alphas``, in their order.

    Raises
    ------
    ImportError
        If transformers is missing: ``pip install "laplex[encoders]"``.
    TypeError, ValueError
        If the model is of another kind or in training mode, the axis is out of range, ``alphas``
        is empty or not finite, or the d of ``base`` or ``cedar`` is not the hidden size of the
        image encoder.
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
    # One at a time: versions of transformers differ in how a processor decodes a batch.
    texts = [processor.decode(row, skip_special_tokens=True).strip() for row in tokens]
    return [Caption(alpha, text) for alpha, text in zip(values.tolist(), texts, strict=True)]


def _decode(model: Any, hidden: Tensor, **generate: Any) -> Tensor:
    """Generate tokens [a, length] from vectors [a, t, d] that the decoder attends to.

    This follows ``BlipForConditionalGeneration.generate`` of transformers 5 without a prompt, which
    makes [bos, eos], drops the last token, and ends sentences at sep.
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
