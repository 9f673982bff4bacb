"""Loading a pretrained model, and what to do where its files are not found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Add the remedy to the error of a model that is neither on disk nor to be downloaded."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: AutoProcessor's, of a file that is absent
        raise OSError(
            f"{error}\nname={name!r} is looked for as a folder, in the cache of the Hugging Face "
            "hub, and then online. Without a network, pass the folder of a model that was saved "
            "with save_pretrained; or load it once where there is a network, and copy the folder "
            "that HF_HOME names there."
        ) from error
