"""The blocks of a backbone, and the parameters of theirs that are counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ..model import MultiExitModel

_LEFT_OUT = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
)
# Norms and embeddings of libraries are classes of their own: LlamaRMSNorm, ViTEmbeddings.
_LEFT_OUT_NAME = re.compile(r"(Norm(\dd)?|Embed|Embeddings?)$")


def is_norm_or_embedding(module: nn.Module) -> bool:
    """Whether a module is a normalisation or an embedding.

    It is if it is one of torch's, or if the name of its class ends in Norm, Norm1d to Norm3d,
    Embed, Embedding or Embeddings.
    """
    return isinstance(module, _LEFT_OUT) or bool(_LEFT_OUT_NAME.search(type(module).__name__))


def counted_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of a module and its submodules, each once, without norms and embeddings."""
    found = {
        id(parameter): parameter
        for owner in module.modules()
        if not is_norm_or_embedding(owner)
        for parameter in owner.parameters(recurse=False)
        if parameter.is_floating_point()
    }
    return list(found.values())


def default_blocks(model: MultiExitModel) -> list[str]:
    """Names of the children of the backbone; a child that contains exits is split into its own."""
    return list(_children(model.backbone, "", model.module_names))


def _children(module: nn.Module, prefix: str, exits: Sequence[str]) -> Iterator[str]:
    for name, child in module.named_children():
        path = prefix + name
        if any(one.startswith(path + ".") for one in exits):
            yield from _children(child, path + ".", exits)
        else:
            yield path


def named_blocks(model: MultiExitModel, blocks: Any) -> dict[str, nn.Module]:
    """Look up modules of the backbone.

    Parameters
    ----------
    model : MultiExitModel
    blocks : mapping of str to str, or sequence of str
        Names of modules, as in ``backbone.named_modules()``. A mapping gives them other names for
        display.

    Raises
    ------
    TypeError, ValueError
        If `blocks` has another type, is empty, or names modules that the backbone does not have.
    """
    if isinstance(blocks, str) or not isinstance(blocks, (Mapping, Sequence)):
        raise TypeError(
            f"names of modules must be a list or a mapping, got {type(blocks).__name__}: pass "
            '["layer1", ...] or {"first": "layer1", ...}'
        )
    paths = dict(blocks) if isinstance(blocks, Mapping) else {name: name for name in blocks}
    known = dict(model.backbone.named_modules())
    if not paths:
        raise ValueError(f"no modules are named: name some of {', '.join(list(known)[1:6])}, ...")
    for path in paths.values():
        if path not in known or not path:
            raise ValueError(
                f"{path!r} is not a module of the backbone: it has "
                f"{', '.join(name for name in list(known)[:12] if name)}, ..."
            )
    return {str(name): known[path] for name, path in paths.items()}
