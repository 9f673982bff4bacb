"""Captions for axes: sentences that BLIP or BLIP-2 decodes from multiples of an atom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from laplex._support.optional import require

from .encoders import BlipEncoder
from .encoders.images import ImageLike, as_rgb, check_images


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
    image: ImageLike | None = None,
    base: npt.ArrayLike | Tensor | None = None,
    **generate: Any,
) -> list[Caption]:
    r"""Decode :math:`b + \alpha\,a_i` into a sentence, for each alpha.

    The language model of BLIP or BLIP-2 reads an image as a sequence of vectors, those that
    `laplex.cedar.encoders.BlipEncoder` returns. To steer the caption of an image, pass the image:
    the multiple of the atom is then added to each of its vectors.

    Without an image, the vector :math:`b + \alpha\,a_i` takes the place of the sequence. BLIP gets
    it once; repeating it would change nothing, because attention to t equal keys is the mean of t
    equal values. BLIP-2 gets it as often as it has queries: its language model reads them as a
    prompt of that length.

    Parameters
    ----------
    model : BlipForConditionalGeneration or Blip2ForConditionalGeneration
        The model of transformers, in evaluation mode. Its public ``generate`` takes only pixels, so
        this function calls its language model with the arguments that ``generate`` would pass on.
    processor : BlipProcessor or Blip2Processor
        Turns tokens into text, and an image into pixels.
    axis : int
        The axis i, from 0 to d - 1.
    alphas : sequence of float ``[a]``
        Values of the code on the axis. Negative values show the other end of the axis. The codes
        of your data show which values are usual.
    cedar : CEDAR
        A model fitted to the embeddings that ``BlipEncoder`` makes with the same BLIP model. Any
        object with ``mean_`` ``[d]`` and ``atoms_`` ``[d, d]`` is accepted.
    image : path, Pillow image or uint8 array, optional
        An image whose caption to steer.
    base : array ``[d]`` or ``[t, d]``, optional
        Vectors to use in place of the mean b, if you have them already.
    **generate
        Arguments of the ``generate`` method of transformers, such as ``max_new_tokens`` or
        ``num_beams``. Without any, decoding is greedy up to the length in the generation
        configuration of the language model.

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
        is empty or not finite, both ``image`` and ``base`` are given, or the d of ``base`` or
        ``cedar`` is not that of the vectors.

    Notes
    -----
    The sequence and the arguments are those of ``generate`` of transformers 5 (Li et al., BLIP,
    arXiv 2201.12086, and BLIP-2, arXiv 2301.12597). A sequence that no image gives, as without
    ``image``, may get a caption that says little.
    """
    transformers = require("transformers", extra="encoders", feature="decode_captions")
    second = isinstance(model, transformers.Blip2ForConditionalGeneration)
    if not second and not isinstance(model, transformers.BlipForConditionalGeneration):
        raise TypeError(
            "model must be a BlipForConditionalGeneration or Blip2ForConditionalGeneration of "
            f"transformers, got {type(model).__name__}"
        )
    if model.training:
        raise ValueError("model is in training mode, with dropout: call model.eval() first")
    if image is not None and base is not None:
        raise ValueError("pass image or base, not both: base replaces the vectors of the image")
    values = _alphas(alphas)
    atom = _atom(axis, cedar)
    vectors = _base(cedar.mean_ if base is None else base)
    config = model.config.qformer_config if second else model.config.vision_config
    for name, width in (("cedar's atoms", len(atom)), ("base", vectors.shape[1])):
        if width != config.hidden_size:
            raise ValueError(
                f"{name} must have d={config.hidden_size}, as the vectors that the model makes of "
                f"images, got d={width}: fit CEDAR to BlipEncoder(model, processor)"
                ".encode_images(images)"
            )
    if image is not None:
        (checked,) = check_images([image])
        with torch.inference_mode():
            states = BlipEncoder(model, processor).states([as_rgb("image", checked)])
        vectors = _base(states[0])
    elif second and base is None:
        vectors = vectors.repeat(model.config.num_query_tokens, axis=0)
    hidden = torch.from_numpy(vectors + values[:, None, None] * atom)
    tokens = (_decode_second if second else _decode)(model, hidden, **generate)
    # One at a time: versions of transformers differ in how a processor decodes a batch.
    texts = [processor.decode(row, skip_special_tokens=True).strip() for row in tokens]
    return [Caption(alpha, text) for alpha, text in zip(values.tolist(), texts, strict=True)]


def _decode(model: Any, hidden: Tensor, **generate: Any) -> Tensor:
    """Generate tokens [a, length] from vectors [a, t, d] that the decoder of BLIP attends to.

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


def _decode_second(model: Any, hidden: Tensor, **generate: Any) -> Tensor:
    """Generate tokens [a, length] from vectors [a, t, d] in place of the outputs of the Q-Former.

    This follows ``Blip2ForConditionalGeneration.generate`` of transformers 5 without a prompt: the
    language model reads the projected vectors, and then bos. Only new tokens are returned, because
    no ids are passed.
    """
    language = model.language_model
    weight = model.language_projection.weight
    start = torch.full((len(hidden), 1), model.config.text_config.bos_token_id)
    with torch.no_grad():
        prompt = model.language_projection(hidden.to(weight.device, weight.dtype))
        first = model.get_input_embeddings()(start.to(weight.device))
        embeddings = torch.cat([prompt.to(first.dtype), first], dim=1)
        tokens: Tensor = language.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(
                embeddings.shape[:2], dtype=torch.long, device=embeddings.device
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
