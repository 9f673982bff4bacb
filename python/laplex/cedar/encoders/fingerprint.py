"""SHA-256 fingerprints of encoders and of the items they embed."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from .images import ImageLike


def of_weights(model: nn.Module) -> str:
    """Return a hash of the parameters and buffers of a model: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_description(description: Any) -> str:
    """Return a hash of nested dicts and lists; other objects count by their ``str``.

    Memory addresses, which the ``repr`` of a function holds, do not count, because they change from
    one run to the next.
    """
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", text).encode()).hexdigest()


def of_tokenizer(tokenizer: Any) -> str:
    """Return a hash of a tokenizer: vocabulary, merges, normalisation and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one of sentencepiece or of plain Python
        description = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        description = json.loads(backend.to_str())
        for state in ("padding", "truncation"):  # what the last call left there
            description.pop(state, None)
    return of_description([description, tokenizer.special_tokens_map, tokenizer.padding_side])


def of_packages(*names: str) -> dict[str, str | None]:
    """Return the versions of packages, None for a module without one.

    The packages do the preprocessing, which changes with their versions.
    """
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def of_text(text: str) -> bytes:
    """Return a digest of a text."""
    return hashlib.sha256(b"text" + text.encode()).digest()


def of_image(image: ImageLike) -> bytes:
    """Return a digest of an image: of the bytes of a file, or of mode, size and pixels."""
    if isinstance(image, (str, Path)):
        with Path(image).open("rb") as file:
            return hashlib.sha256(b"file" + file.read()).digest()
    if isinstance(image, np.ndarray):
        head, data = f"array {image.shape} ", np.ascontiguousarray(image).tobytes()
    else:
        palette = image.palette.tobytes() if image.palette is not None else b""
        head, data = f"picture {image.mode} {image.size} ", palette + image.tobytes()
    return hashlib.sha256(head.encode() + data).digest()
