"""Base classes of the encoders: batches, normalisation, and the cache."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from laplex._support.arguments import integer
from laplex._support.optional import require
from laplex._support.progress import progress_bar

from . import cache as disk
from . import fingerprint
from .images import ImageLike, Images, as_rgb, check_images

if TYPE_CHECKING:
    from PIL.Image import Image

Item = TypeVar("Item")
Embeddings = npt.NDArray[np.floating[Any]]


class Encoder(ABC):
    """Base class of the encoders: a frozen model that computes embeddings.

    Parameters
    ----------
    normalize : bool
        Whether to divide each row by its length.
    """

    def __init__(self, *, normalize: bool) -> None:
        if not isinstance(normalize, bool):
            raise TypeError(f"normalize must be True or False, got {normalize!r}")
        self.normalize = normalize

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return everything the embeddings depend on besides the items, as types of JSON.

        This covers weights, preprocessing and package versions. It is computed for each call with a
        cache, so that changed weights do not get the embeddings of the old ones.
        """

    def _run(
        self,
        kind: str,
        items: Sequence[Item],
        embed: Callable[[int, Sequence[Item]], Tensor],
        digest: Callable[[Item], bytes],
        batch_size: int,
        progress: bool,
        cache: str | os.PathLike[str] | None,
    ) -> Embeddings:
        """Embed items in batches, or read them from the cache.

        Parameters
        ----------
        kind : str
            "images" or "texts", for messages and the key.
        embed : callable
            Computes a Tensor [b, d], or [b, t, d] for t rows an item, from the number of the first
            item and a batch.
        digest : callable
            Computes a digest of the content of an item.
        """
        batch_size = integer("batch_size", batch_size)

        def compute(first: int, end: int) -> Embeddings:
            rows = []
            for start in range(first, end, batch_size):
                stop = min(start + batch_size, end)
                with torch.inference_mode():
                    rows.append(self._finished(embed(start, items[start:stop]), kind, start))
                report(f"encoding {kind}", stop, len(items), "")
            return np.concatenate(rows)

        with progress_bar(progress, extra="encoders") as report:
            if cache is None:
                rows = compute(0, len(items))
            else:
                key = self._key(kind, items, digest)
                rows = disk.load_or_compute(cache, key, len(items), compute)
                report(f"encoding {kind}", len(items), len(items), "")
            return rows.reshape(-1, rows.shape[-1])

    def _finished(self, rows: Tensor, kind: str, start: int) -> Embeddings:
        """Convert rows [b, d] or [b, t, d] to float32 and, with ``normalize``, to unit length.

        Rows in half precision, also bfloat16, which NumPy does not have, become float16.
        """
        short = rows.dtype in (torch.float16, torch.bfloat16)
        rows = rows.detach().to("cpu", torch.float32)
        lengths = rows.norm(dim=-1, keepdim=True)
        found = rows / lengths if self.normalize else rows
        found = found.half() if short else found
        good = (lengths.isfinite() & found.isfinite()).flatten(1).all(1)
        if not bool(good.all()):
            number = int((~good).nonzero()[0])
            zero = self.normalize and bool((lengths[number] == 0).any())
            what = "zero" if zero else "not finite"
            raise ValueError(
                f"the embedding of {kind}[{start + number}] is {what}: check that item, and load "
                "the model in float32"
            )
        return found.numpy()

    def _key(self, kind: str, items: Sequence[Item], digest: Callable[[Item], bytes]) -> str:
        encoder = {
            "class": type(self).__name__,
            "normalize": self.normalize,
            "items": kind,
            **self.identity(),
        }
        key = hashlib.sha256(fingerprint.of_description(encoder).encode())
        for item in items:
            key.update(digest(item))
        return key.hexdigest()[:40]


class ImageEncoder(Encoder):
    """Base class of the encoders of images.

    Parameters
    ----------
    normalize : bool
        Whether to scale each embedding to unit length.
    """

    @abstractmethod
    def _embed_images(self, pictures: list[Image]) -> Tensor:
        """Embed a batch of RGB pictures as a Tensor [b, d], or [b, t, d] for t rows a picture."""

    def encode_images(
        self,
        images: Images,
        *,
        batch_size: int = 32,
        progress: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> Embeddings:
        """Embed images.

        Parameters
        ----------
        images : sequence or ndarray
            A list of paths, Pillow images or uint8 arrays [h, w] or [h, w, 3], or one uint8 array
            [n, h, w] or [n, h, w, 3]. Grey is repeated to RGB.
        batch_size : int
            Number of images that pass through the model at a time.
        progress : bool
            Whether to show a progress bar (this needs rich).
        cache : path, optional
            Folder for the embeddings. Embeddings of the same images by the same model with the same
            preprocessing are read from it. New embeddings are written to it, 512 rows at a time, so
            that an interrupted call continues where it stopped.

        Returns
        -------
        ndarray [n, d]
            Embeddings in the order of the images: float32, or float16 if the model is in half
            precision. With a cache, memory-mapped and read-only. Encoders of patches return
            [n * patches, d].

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            If an item is not an image (the message has its number), or an embedding is not finite.
        """
        items = check_images(images)

        def embed(start: int, batch: Sequence[ImageLike]) -> Tensor:
            return self._embed_images(
                [as_rgb(f"images[{start + i}]", image) for i, image in enumerate(batch)]
            )

        digest = fingerprint.of_image
        return self._run("images", items, embed, digest, batch_size, progress, cache)


class TextEncoder(Encoder):
    """Base class of the encoders of texts.

    Parameters
    ----------
    normalize : bool
        Whether to scale each embedding to unit length.
    """

    @abstractmethod
    def _embed_texts(self, texts: list[str]) -> Tensor:
        """Embed a batch of texts as a Tensor [b, d]."""

    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        progress: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> Embeddings:
        """Embed texts, each cut to the context of the model.

        Parameters
        ----------
        texts : sequence of str
            The texts.
        batch_size : int
            Number of texts that pass through the model at a time.
        progress : bool
            Whether to show a progress bar (this needs rich).
        cache : path, optional
            Folder for the embeddings. Embeddings of the same texts by the same model are read from
            it, and new ones are written to it, so that an interrupted call continues where it
            stopped.

        Returns
        -------
        ndarray [n, d]
            Embeddings in the order of the texts: float32, or float16 if the model is in half
            precision. With a cache, memory-mapped and read-only.

        Raises
        ------
        TypeError, ValueError
            If an item is not a text (the message has its number), or an embedding is not finite.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of strings, got a single one: pass [text]")
        items = list(texts)
        if not items:
            raise ValueError("texts must not be empty")
        for number, text in enumerate(items):
            if not isinstance(text, str):
                raise TypeError(f"texts[{number}] must be a string, got {type(text).__name__}")

        def embed(start: int, batch: Sequence[str]) -> Tensor:
            return self._embed_texts(list(batch))

        digest = fingerprint.of_text
        return self._run("texts", items, embed, digest, batch_size, progress, cache)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Add the remedy to the error for a model that is neither on disk nor available online."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: AutoProcessor's, of a file that is absent
        raise OSError(
            f"{error}\nname={name!r} was looked for as a folder, in the cache of the Hugging Face "
            "hub, and then online. Without a network, pass the folder of a model that was saved "
            "with save_pretrained; or load the model once on a machine with a network, and copy "
            "the folder that HF_HOME names on that machine."
        ) from error


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Hide the progress bars with which transformers loads weights, and then restore the setting.

    For models on disk only: bars of downloads are hidden, too.
    """
    feature = "SentenceEncoder.mini_lm"
    logging = require("transformers", extra="encoders", feature=feature).utils.logging
    hub = require("huggingface_hub", extra="encoders", feature=feature).utils
    if not logging.is_progress_bar_enabled():
        yield
        return
    hub_was_quiet = hub.are_progress_bars_disabled()
    with warnings.catch_warnings():
        # The hub warns if an environment variable has already chosen.
        warnings.simplefilter("ignore")
        logging.disable_progress_bar()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.enable_progress_bar()
            if hub_was_quiet:
                hub.disable_progress_bars()
