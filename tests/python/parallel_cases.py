"""Training a small network of kernel layers, as it runs on every rank of a group."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import parallelize_module

import laplex
from laplex.nn import HeadParallel, LineParallel, mp_policy, shard_placement

INPUTS, HIDDEN, CLASSES = 16, 24, 8


def network(heads: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        laplex.nn.LaplexLinear(INPUTS, HIDDEN, heads=heads, dtype=dtype),
        nn.Tanh(),
        laplex.nn.LaplexHead(HIDDEN, CLASSES, heads=heads, dtype=dtype),
    )


def optimiser_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def batch(step: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(step)
    rows = torch.randn(16, INPUTS, generator=random, dtype=torch.float64)
    return rows, torch.randint(0, CLASSES, (16,), generator=random)


def train(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rank: int = 0,
    size: int = 1,
    steps: range = range(3),
    norms: bool = False,
    dtype: torch.dtype = torch.float64,
) -> list[float]:
    """Take steps on this rank's part of the batches; with `norms`, the heads' are a loss too."""
    losses = []
    for step in steps:
        rows, labels = (each[rank::size] for each in batch(step))
        loss = nn.functional.cross_entropy(model(rows.to(dtype)), labels)
        losses.append(loss.item())
        if norms:
            # Weighed by the rank, so that a gradient of its own would show.
            weight = 0.1 * (rank + 1) if size > 1 else 0.15
            loss = loss + weight * sum(model[at].head_norms().sum() for at in (0, 2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses


def state(model: nn.Module) -> dict[str, Any]:
    """The whole parameters, as arrays."""
    return {
        name: (each.full_tensor() if isinstance(each, DTensor) else each).detach().numpy()
        for name, each in model.named_parameters()
    }


def shard(model: nn.Module, mesh: Any = None, **named: Any) -> nn.Module:
    ranks = dist.get_world_size() if mesh is None else mesh.size()
    placement = functools.partial(shard_placement, ranks=ranks)
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh, shard_placement_fn=placement, **named)
    return fully_shard(model, mesh=mesh, shard_placement_fn=placement, **named)


def ddp(rank: int, size: int) -> dict[str, Any]:
    model = network()
    parallel = nn.parallel.DistributedDataParallel(model)
    train(parallel, optimiser_of(parallel), rank, size)
    return state(model)


def fsdp(rank: int, size: int) -> tuple[dict[str, Any], int, dict[str, Any]]:
    model = shard(network())
    held = sum(each.to_local().numel() for each in model.parameters())
    train(model, optimiser_of(model), rank, size, norms=True)
    seen = {
        "ranks": [model[at].rank() for at in (0, 2)],
        "norms": [model[at].head_norms().detach().numpy() for at in (0, 2)],
        "weights": [model[at].weight.detach().numpy() for at in (0, 2)],
        "dense": [model[at].to_linear().weight.detach().numpy() for at in (0, 2)],
        "routing": model[2].routing().detach().numpy(),
    }
    return state(model), held, seen


def older_fsdp(rank: int, size: int) -> dict[str, Any]:
    """The FSDP of Lightning's strategy "fsdp", which Lightning itself refuses on a CPU."""
    wrap = functools.partial(
        FullyShardedDataParallel, use_orig_params=True, device_id=torch.device("cpu")
    )
    model = network()
    for at in (0, 2):
        model[at] = wrap(model[at])
    whole = wrap(model)
    train(whole, optimiser_of(whole), rank, size)
    with FullyShardedDataParallel.summon_full_params(whole):
        return {
            name.replace("_fsdp_wrapped_module.", ""): each.detach().clone().numpy()
            for name, each in whole.named_parameters()
        }


def from_meta(rank: int, size: int) -> dict[str, Any]:
    with torch.device("meta"):
        model = network(heads=3)
    shard(model)
    model.to_empty(device="cpu")
    torch.manual_seed(rank)
    for layer in (model[0], model[2]):
        layer.reset_parameters()
    return state(model)


def with_dense_layer() -> nn.Sequential:
    model = network(dtype=torch.float32)
    model.insert(0, nn.Linear(INPUTS, INPUTS))
    return model


def mixed(rank: int, size: int) -> tuple[dict[str, Any], set[torch.dtype], str]:
    dense = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = with_dense_layer()
    for at in (1, 3):
        fully_shard(model[at], shard_placement_fn=shard_placement, mp_policy=mp_policy)
    fully_shard(model, mp_policy=dense)
    seen = set()
    for at in (0, 1, 3):
        model[at].register_forward_hook(lambda layer, given, output: seen.add(output.dtype))
    train(model, optimiser_of(model), rank, size, dtype=torch.float32)
    plain = fully_shard(network(dtype=torch.float32), mp_policy=dense)
    try:
        plain(torch.zeros(2, INPUTS))
    except TypeError as error:
        return state(model), seen, str(error)
    return state(model), seen, ""


def output_and_gradients(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    rows = batch(0)[0].requires_grad_()
    output = model(rows)
    output.square().sum().backward()
    gradients = {"input": rows.grad.numpy()}
    for name, each in model.named_parameters():
        grad = each.grad
        gradients[name] = (grad.full_tensor() if isinstance(grad, DTensor) else grad).numpy()
    return output.detach().numpy(), gradients


def by_heads(rank: int, size: int, heads: int) -> tuple[list[int], Any, dict[str, Any]]:
    mesh = init_device_mesh("cpu", (size,))
    model = parallelize_module(network(heads), mesh, {"0": HeadParallel(), "2": HeadParallel()})
    held = [len(model[0].targets.to_local()), len(model[2].source_gain.to_local())]
    return held, *output_and_gradients(model)


def by_features(rank: int, size: int, heads: int) -> tuple[int, Any, dict[str, Any]]:
    mesh = init_device_mesh("cpu", (size,))
    styles = {
        "0": LineParallel(input_layouts=Replicate()),
        "2": LineParallel(output_layouts=Replicate()),
    }
    model = parallelize_module(layers_of_features(heads), mesh, styles)
    return model[0].targets.to_local().shape[1], *output_and_gradients(model)


def layers_of_features(heads: int) -> nn.Sequential:
    """Two layers with features that two or three ranks cannot share equally."""
    torch.manual_seed(0)
    return nn.Sequential(
        laplex.nn.LaplexLinear(INPUTS, 23, heads=heads, dtype=torch.float64),
        nn.Tanh(),
        laplex.nn.LaplexLinear(23, 7, heads=heads, dtype=torch.float64, phased=False),
    )


def heads_and_fsdp(rank: int, size: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("batch", "heads"))
    styles = {"0": HeadParallel(), "2": HeadParallel()}
    model = parallelize_module(network(heads=2), mesh["heads"], styles)
    shard(model, mesh["batch"])
    train(model, optimiser_of(model), mesh["batch"].get_local_rank(), 2)
    return state(model)


def refused(rank: int, size: int) -> list[str]:
    mesh = init_device_mesh("cpu", (size,))
    errors = []
    line = torch.zeros(3)
    sharded = distribute_tensor(line, mesh, [Replicate()])
    other = distribute_tensor(line, init_device_mesh("cpu", (1, size)), [Replicate()] * 2)
    by_features = parallelize_module(laplex.nn.LaplexLinear(8, 6), mesh, LineParallel())
    wide = torch.ones(3, 5 if rank else 4)  # one rank's part is wrong
    double = torch.ones(3, 4, dtype=torch.float64 if rank else torch.float32)
    for attempt in (
        lambda: parallelize_module(network(3), mesh, {"0": HeadParallel()}),
        lambda: parallelize_module(network(2), mesh, {"1": HeadParallel()}),
        lambda: laplex.matvec(sharded, line),
        lambda: laplex.matvec(sharded, other),
        lambda: laplex.matvec(sharded[None, None], distribute_tensor(line, mesh, [Shard(0)])[:2]),
        lambda: by_features(wide),
        lambda: by_features(double),
    ):
        try:
            attempt()
        except (TypeError, ValueError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def checkpointed(
    rank: int, size: int, read: str | None, written: str, steps: range
) -> dict[str, Any]:
    """Take steps from a checkpoint, or from the start, and write a checkpoint."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model = shard(network(seed=0 if read is None else 1))
    optimiser = optimiser_of(model)
    if read is not None:
        own, of_optimiser = get_state_dict(model, optimiser)
        stored = {"model": own, "optimiser": of_optimiser}
        dcp.load(stored, checkpoint_id=read)
        set_state_dict(
            model,
            optimiser,
            model_state_dict=stored["model"],
            optim_state_dict=stored["optimiser"],
        )
    train(model, optimiser, rank, size, steps)
    own, of_optimiser = get_state_dict(model, optimiser)
    dcp.save({"model": own, "optimiser": of_optimiser}, checkpoint_id=written)
    return state(model)


def products(rank: int, size: int, form: str) -> list[tuple[str, list[str], list[Any]]]:
    """Products of DTensors with the gradients of a loss and of its gradients."""
    mesh = init_device_mesh("cpu", (size,))
    results = []
    arguments = product_arguments(form)
    # Rows are uneven: five. Heads are three.
    for where, placements in {
        "rows": {"values": Shard(0)},
        "heads": dict.fromkeys(arguments, Shard(0)) | {"values": Shard(1)},
        "anchors' heads": {"targets": Shard(0)},
        "line": {"values": Shard(2), "targets": Shard(1)},
    }.items():
        given = {
            name: distribute_tensor(each, mesh, [placements.get(name, Replicate())])
            for name, each in arguments.items()
        }
        results.append((where, *differentiated(given, form)))
    return results


def product_arguments(form: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=random)

    given = {
        "values": draw(5, 3, 7),
        "targets": draw(3, 6),
        "sources": draw(3, 7),
        "lengthscale": 0.1 + draw(3),
    }
    if form == "cosine":
        given |= {"target_phase": draw(3, 6), "source_phase": draw(3, 7)}
    if form == "complex values":
        given["values"] = torch.complex(given["values"], draw(5, 3, 7))
    return given


def differentiated(given: dict[str, Tensor], form: str) -> tuple[list[str], list[Any]]:
    """The placements and values of a product, its gradients and their gradients."""
    leaves = {name: each.detach().requires_grad_() for name, each in given.items()}
    product = laplex.matvec(**leaves, real_part=form == "cosine")
    power = product * product.conj()
    first = torch.autograd.grad(
        (power.real if power.is_complex() else power).sum(),
        list(leaves.values()),
        create_graph=True,
    )
    second = torch.autograd.grad(
        sum((each * each.conj()).sum().abs() for each in first), list(leaves.values())
    )
    found = [product, *first, *second]
    whole = [each.full_tensor() if isinstance(each, DTensor) else each for each in found]
    places = [str(each.placements) if isinstance(each, DTensor) else "" for each in found]
    return places, [each.detach().numpy() for each in whole]


def lightning(rank: int, size: int) -> list[dict[str, Any]]:
    """Train by Lightning's Trainer, on processes that are there already."""
    import pytorch_lightning as pl

    os.environ |= {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",  # unused, as the group exists
    }

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, number: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimiser_of(self)

    class Sharded(Module):
        def configure_model(self) -> None:
            shard(self.net, self.device_mesh["data_parallel"])

    batches = [tuple(each[rank::size] for each in batch(step)) for step in range(3)]
    states = []
    for module, strategy in (
        (Module(), "ddp"),
        (Sharded(), pl.strategies.ModelParallelStrategy(size, tensor_parallel_size=1)),
    ):
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=size,
            strategy=strategy,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
        states.append(state(module.net))
    return states
