"""`laplex.nn`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import laplex

from .kernels import Draws, weights

Calls = Iterator[tuple[str, Callable[[], Any]]]
KINDS = {"LaplexLinear": laplex.nn.LaplexLinear, "LaplexHead": laplex.nn.LaplexHead}


def gradients(module: nn.Module, inputs: Tensor) -> Any:
    """Result, and gradients by the inputs and all parameters."""
    inputs = inputs.detach().requires_grad_()
    result = module(inputs)
    result.backward(weights(result))
    return {"result": result, "by inputs": inputs.grad} | {
        f"by {name}": each.grad for name, each in module.named_parameters()
    }


def layer_calls() -> Calls:
    draw = Draws(10)
    inputs = draw(2, 5, 13)
    for (kind, make), heads, phased, bias, init in itertools.product(
        KINDS.items(), (1, 3), (True, False), (True, False), ("interlaced", "random")
    ):
        name = f"{kind}, heads={heads}, phased={phased}, bias={bias}, {init}"

        layer = partial(make, 13, 7, bias, heads=heads, phased=phased, init=init)

        yield name, lambda layer=layer: of_layer(layer(dtype=torch.float64), inputs)
        yield (
            f"{name}, float32",
            lambda layer=layer: gradients(layer(), inputs.float()),
        )
        if bias:
            yield f"{name}, training", lambda layer=layer: trained(layer())
            yield f"{name}, twice", lambda layer=layer: twice(layer(dtype=torch.float64), inputs)
    for (kind, make), half in itertools.product(KINDS.items(), (torch.float16, torch.bfloat16)):
        made, moved = (
            lambda make=make, half=half: make(13, 7, heads=2, dtype=half),
            lambda make=make, half=half: make(13, 7, heads=2).to(half),
        )
        yield f"{kind}, {half}", lambda made=made, half=half: gradients(made(), inputs.to(half))
        yield (
            f"{kind}, to {half}",
            lambda moved=moved, half=half: gradients(moved(), inputs.to(half)),
        )
    for kind, make in KINDS.items():
        single = lambda make=make: make(13, 7, heads=2)  # noqa: E731
        yield (
            f"{kind}, 784 to 256",
            lambda make=make: gradients(make(784, 256, heads=4), draw(64, 784).float()),
        )
        yield f"{kind}, one row", lambda single=single: single()(inputs[0, 0].float())
        yield f"{kind}, no rows", lambda single=single: gradients(single(), inputs[:0].float())
        yield f"{kind}, columns", lambda single=single: single()(draw(13, 5).float().mT)
        yield f"{kind}, complex", lambda single=single: single()(torch.complex(*inputs.float()))
        yield f"{kind}, half inputs", lambda single=single: single()(inputs.half())
        yield f"{kind}, autocast", lambda single=single: autocast(single(), inputs.float())
        yield f"{kind}, no gradients", lambda single=single: without(single(), inputs.float())
        yield f"{kind}, frozen", lambda single=single: frozen(single(), inputs.float())
        yield f"{kind}, compiled", lambda single=single: compiled(single(), inputs.float())
        yield f"{kind}, ensemble", lambda make=make: ensemble(make, inputs[0].float())
        yield (
            f"{kind}, symbolic trace",
            lambda single=single: gradients(torch.fx.symbolic_trace(single()), inputs.float()),
        )
        yield (
            f"{kind}, exported",
            lambda single=single: torch.export.export(single(), (inputs.float(),)).module()(
                inputs.float()
            ),
        )
        yield f"{kind}, copy", lambda single=single: copy.deepcopy(single()).state_dict()
        yield f"{kind}, text", lambda single=single: repr(single())
        for heads, phased in itertools.product((1, 2), (True, False)):
            yield (
                f"{kind}.from_linear, heads={heads}, phased={phased}",
                (partial(from_linear, make, heads, phased)),
            )
    yield "param_groups", parameter_groups


def of_layer(layer: Any, inputs: Tensor) -> Any:
    found = gradients(layer, inputs)
    found |= {f"initial {name}": each.clone() for name, each in layer.state_dict().items()}
    layer.zero_grad()
    layer.weight.backward(weights(layer.weight))
    found |= {f"weight by {name}": each.grad for name, each in layer.named_parameters()}
    dense = layer.to_linear()
    norms = layer.head_norms()
    found |= {"weight": layer.weight, "dense": dense.weight, "norms": norms, "rank": layer.rank()}
    found["dense bias"] = dense.bias
    return found | ({"routing": layer.routing()} if hasattr(layer, "routing") else {})


def trained(layer: Any) -> Any:
    draw = Draws(11)
    inputs, wanted = draw(40, 13).float(), draw(40, 7).float()
    optimiser = torch.optim.AdamW(laplex.nn.param_groups(layer, weight_decay=0.1), lr=0.02)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(layer(inputs), wanted)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return {"losses": losses} | layer.state_dict()


def twice(layer: Any, inputs: Tensor) -> Any:
    inputs = inputs.detach().requires_grad_()
    leaves = [inputs, *layer.parameters()]
    first = torch.autograd.grad(layer(inputs).square().sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(each.square().sum() for each in first), leaves)


def autocast(layer: Any, inputs: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return gradients(layer, inputs)


def without(layer: Any, inputs: Tensor) -> Any:
    with torch.no_grad():
        return layer(inputs)


def frozen(layer: Any, inputs: Tensor) -> Any:
    layer.requires_grad_(False)
    return gradients(layer, inputs)["by inputs"]


def compiled(layer: Any, inputs: Tensor) -> Any:
    torch.compiler.reset()
    found = gradients(torch.compile(layer, backend="aot_eager", fullgraph=True), inputs)
    return {name.replace("_orig_mod.", ""): each for name, each in found.items()}


def ensemble(make: Any, inputs: Tensor) -> Any:
    layers = [make(13, 7, heads=2) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)

    def call(parameters: Any, buffers: Any) -> Tensor:
        return torch.func.functional_call(layers[0], (parameters, buffers), (inputs,))

    def loss(parameters: Any, buffers: Any) -> Tensor:
        return call(parameters, buffers).square().sum()

    return {
        "results": torch.func.vmap(call)(parameters, buffers),
        **torch.func.vmap(torch.func.grad(loss))(parameters, buffers),
    }


def from_linear(make: Any, heads: int, phased: bool) -> Any:
    layer = make.from_linear(nn.Linear(9, 6), heads=heads, phased=phased, rounds=1)
    return {"error": layer.fit_error} | layer.state_dict()


def parameter_groups() -> Any:
    model = nn.Sequential(
        laplex.nn.LaplexLinear(9, 6), nn.LayerNorm(6), nn.Linear(6, 5), laplex.nn.LaplexHead(5, 3)
    )
    groups = laplex.nn.param_groups(model, weight_decay=0.1)
    names = {id(each): name for name, each in model.named_parameters()}
    return [
        (group["weight_decay"], [names[id(each)] for each in group["params"]]) for group in groups
    ]


AREAS = {"nn": layer_calls}
