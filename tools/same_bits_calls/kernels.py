"""`laplex.matvec`, `laplex.LaplaceOperator` and `laplex.Plan`."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor
from torch.autograd import forward_ad

import laplex

Calls = Iterator[tuple[str, Callable[[], Any]]]
Arguments = dict[str, Any]

#: What is given beside anchors and lengthscale.
FORMS: dict[str, tuple[str, ...]] = {
    "real": (),
    "target phase": ("target_phase",),
    "source phase": ("source_phase",),
    "both phases": ("target_phase", "source_phase"),
    "oscillating": ("frequency",),
    "oscillating with phases": ("frequency", "target_phase", "source_phase"),
    "cosine of phases": ("target_phase", "source_phase", "real_part"),
    "cosine, oscillating": ("frequency", "real_part"),
    "cosine of everything": ("frequency", "target_phase", "source_phase", "real_part"),
}
FEW = ("real", "oscillating with phases", "cosine of everything")
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class Draws:
    """Random arguments, the same in every run."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype)

    def arguments(
        self,
        form: str,
        dtype: torch.dtype = torch.float64,
        *,
        targets: tuple[int, ...] = (64,),
        sources: tuple[int, ...] | None = (48,),
        values: tuple[int, ...] | None = None,
        batch: tuple[int, ...] = (),
        is_complex: bool = False,
    ) -> Arguments:
        """Arguments of `matvec`: shapes of anchors and values, `batch` of the lengthscale."""
        given = FORMS[form]
        side = targets if sources is None else sources
        kind = COMPLEX[dtype] if is_complex else dtype
        numbers = self(*(values or side[-1:]))
        found: Arguments = {
            "values": (numbers + 1j * self(*numbers.shape) if is_complex else numbers).to(kind),
            "targets": self(*targets, dtype=dtype),
            "sources": None if sources is None else self(*sources, dtype=dtype),
            "lengthscale": self(*batch).exp(),
        }
        for name, shape in (
            ("frequency", batch),
            ("target_phase", targets),
            ("source_phase", side),
        ):
            if name in given:
                wanted = torch.float64 if name == "frequency" else dtype
                found[name] = self(*shape, dtype=wanted)
        return found | ({"real_part": True} if "real_part" in given else {})


def tensors(arguments: Arguments) -> Arguments:
    return {name: each for name, each in arguments.items() if isinstance(each, Tensor)}


def leaves(arguments: Arguments) -> Arguments:
    """The same, with gradients asked for."""
    wanted = {name: each.detach().requires_grad_() for name, each in tensors(arguments).items()}
    return arguments | wanted


def weights(result: Tensor) -> Tensor:
    """A fixed cotangent."""
    ramp = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).cos().reshape(result.shape)
    return torch.polar(ramp, 3 * ramp).to(result.dtype) if result.is_complex() else ramp.to(result)


def with_gradients(arguments: Arguments) -> Arguments:
    given = leaves(arguments)
    result = laplex.matvec(**given)
    result.backward(weights(result))
    return {"product": result} | {name: each.grad for name, each in tensors(given).items()}


def pulled(arguments: Arguments, order: int) -> Arguments:
    """Gradients of a sum of squares of gradients, `order` of them in all."""
    given = leaves(arguments)
    inputs = list(tensors(given).values())
    result = laplex.matvec(**given)
    gradients = torch.autograd.grad(result, inputs, weights(result), create_graph=order > 1)
    for k in range(2, order + 1):
        loss = sum(each.abs().square().sum() for each in gradients)
        gradients = torch.autograd.grad(
            loss, inputs, create_graph=k < order, allow_unused=True, materialize_grads=True
        )
    return dict(zip(tensors(given), gradients, strict=True))


def pushed(arguments: Arguments, draw: Draws) -> Callable[[], Any]:
    names, primals = zip(*tensors(arguments).items(), strict=True)
    tangents = tuple(draw(*each.shape).to(each.dtype) for each in primals)

    def product(*inputs: Tensor) -> Tensor:
        return laplex.matvec(**(arguments | dict(zip(names, inputs, strict=True))))

    return lambda: torch.func.jvp(product, primals, tangents)


def matvec() -> Calls:
    draw = Draws(0)
    for form, (precision, dtype), own, is_complex in itertools.product(
        FORMS, PRECISIONS.items(), (True, False), (True, False)
    ):
        name = f"{form}, {precision}, {'self' if own else 'cross'}, "
        name += "complex values" if is_complex else "real values"
        sources = None if own else (48,)
        given = draw.arguments(form, dtype, sources=sources, is_complex=is_complex)
        yield name, partial(with_gradients, given)
        plain = {key: each for key, each in given.items() if key != "lengthscale"}
        yield f"{name}, unrecorded", partial(laplex.matvec, **plain | {"lengthscale": 0.7})


def matvec_batches() -> Calls:
    draw = Draws(1)
    shapes: dict[str, Arguments] = {
        "heads": {"targets": (3, 20), "sources": (3, 17), "batch": (3,)},
        "heads, self": {"targets": (3, 20), "sources": None, "batch": (3,)},
        "rows": {"targets": (20,), "sources": (17,), "values": (5, 17)},
        "rows of rows": {"targets": (20,), "sources": None, "values": (2, 5, 20)},
        "heads x rows": {"targets": (3, 1, 20), "sources": (3, 1, 17), "values": (5, 17)},
        "rows x heads": {"targets": (3, 20), "sources": (3, 17), "values": (5, 1, 17)},
        "rows x heads, each its own": {"targets": (3, 20), "sources": None, "values": (5, 3, 20)},
        "heads x rows x heads": {
            "targets": (2, 1, 3, 20),
            "sources": (3, 17),
            "values": (2, 5, 3, 17),
        },
        "one head": {"targets": (1, 20), "sources": (1, 17), "values": (5, 1, 17)},
        "shared sources": {"targets": (3, 20), "sources": (17,), "values": (17,)},
        "lengthscales alone": {"targets": (20,), "sources": (17,), "batch": (4,)},
        "lengthscales x heads": {"targets": (3, 20), "sources": (3, 17), "batch": (2, 1)},
        "a lengthscale": {"targets": (3, 20), "sources": (17,), "values": (2, 3, 17)},
        "one target": {"targets": (1,), "sources": (17,)},
        "one source": {"targets": (20,), "sources": (1,)},
        "no targets": {"targets": (0,), "sources": (17,)},
        "no sources": {"targets": (20,), "sources": (0,)},
        "no rows": {"targets": (20,), "sources": (17,), "values": (0, 17)},
        "no heads": {"targets": (0, 20), "sources": (17,), "values": (17,)},
    }
    for (name, shape), form, (precision, dtype) in itertools.product(
        shapes.items(), FEW, PRECISIONS.items()
    ):
        given = draw.arguments(form, dtype, **shape)
        yield f"{name}, {form}, {precision}", partial(with_gradients, given)
    for n, form, (precision, dtype) in itertools.product(
        (2, 300, 5000, 40000), FEW, PRECISIONS.items()
    ):
        given = draw.arguments(form, dtype, targets=(n,), sources=(n + 7,))
        yield f"n = {n}, {form}, {precision}", partial(with_gradients, given)
    given = draw.arguments("cosine of everything", targets=(3, 700), sources=None, batch=(3,))
    given["targets"] = (given["targets"] * 5).round()
    yield "ties", lambda: with_gradients(given)
    given = draw.arguments("real", targets=(5,), sources=(5000,), values=(9, 5000))
    yield "more sources than targets", lambda: with_gradients(given)


def matvec_layouts() -> Calls:
    draw = Draws(2)
    for form in FEW:
        given = draw.arguments(form, targets=(3, 40), sources=(3, 34), is_complex=True)
        real = draw.arguments(form, targets=(3, 40), sources=(3, 34), values=(6, 1, 34))

        def other(given: Arguments = given, **changed: Any) -> Callable[[], Any]:
            return partial(with_gradients, given | changed)

        columns, wide = draw(34, 5), draw(34, 5) + 1j * draw(34, 5)
        two, four = draw(40, 3), draw(3, 80)
        yield f"{form}, values of columns", other(values=columns.mT[:, None])
        yield f"{form}, every other value", other(values=draw(68)[::2])
        yield f"{form}, complex columns", other(values=wide.mT[:, None])
        yield f"{form}, conjugated values", other(values=given["values"].conj())
        yield f"{form}, negated view", other(values=given["values"].conj().imag)
        yield f"{form}, expanded values", other(values=draw(1).expand(34))
        yield f"{form}, targets of columns", other(targets=two.mT)
        yield f"{form}, every other target", other(targets=four[:, ::2])
        yield f"{form}, negated targets", other(targets=torch.complex(two, two).conj().imag.mT)
        yield f"{form}, expanded sources", other(sources=draw(34).expand(3, 34))
        yield f"{form}, float32 lengthscale", other(lengthscale=torch.tensor([0.5, 1.0, 2.0]))
        yield f"{form}, lengthscale of a head", other(lengthscale=draw(6).exp()[::2])
        yield f"{form}, integer lengthscale", other(lengthscale=2)
        yield (
            f"{form}, sources are targets",
            other(sources=given["targets"], source_phase=None, values=draw(40)),
        )
        yield f"{form}, many rows", partial(with_gradients, real)
        single = draw.arguments(form, torch.float32, targets=(30,), values=(4, 48))
        for half in (torch.float16, torch.bfloat16):
            values = single["values"].to(half)
            yield (
                f"{form}, {half}",
                partial(with_gradients, single | {"values": values}),
            )
            yield (
                f"{form}, {half}, unrecorded",
                partial(laplex.matvec, **single | {"values": values}),
            )
        nan = given["values"].clone()
        nan[5] = torch.nan
        nan[9] = torch.inf
        yield f"{form}, NaN and infinity", other(values=nan)


def matvec_derivatives() -> Calls:
    draw = Draws(3)
    small: Arguments = {"targets": (9,), "sources": (7,)}
    for form, own in itertools.product(FORMS, (True, False)):
        name = f"{form}, {'self' if own else 'cross'}"
        sources = None if own else (7,)
        given = draw.arguments(
            form, targets=(2, 9), sources=sources, values=(3, 1, 9 if own else 7)
        )
        yield f"{name}, gradients twice", partial(pulled, given, 2)
        yield f"{name}, forward mode", pushed(given, draw)
        yield f"{name}, forward over reverse", partial(forward_over_reverse, given)
    for form in FEW:
        given = draw.arguments(form, is_complex=True, **small)
        single = draw.arguments(form, torch.float32, **small)
        yield f"{form}, gradients of complex values twice", partial(pulled, given, 2)
        yield f"{form}, float32, twice", partial(pulled, single, 2)
        yield f"{form}, three times", partial(pulled, given, 3)
        yield f"{form}, float32, forward mode", pushed(single, draw)
        given = draw.arguments(form, **small)

        def by_lengthscale(ell: Tensor, given: Arguments = given) -> Tensor:
            return weighted(laplex.matvec(**given | {"lengthscale": ell}))

        def by(name: str, given: Arguments = given) -> Callable[[Tensor], Tensor]:
            return lambda tensor: weighted(laplex.matvec(**given | {name: tensor}))

        def fourth(given: Arguments = given, by: Any = by_lengthscale) -> Tensor:
            function = by
            for _ in range(4):
                function = torch.func.grad(function)
            return function(given["lengthscale"])

        yield f"{form}, four times by the lengthscale", fourth
        for name in ("values", "targets", "sources"):
            many = torch.stack([given[name], given[name].flip(-1), 2 * given[name]])
            yield (
                f"{form}, vmap over {name}",
                lambda name=name, many=many, given=given: torch.func.vmap(
                    lambda each: laplex.matvec(**given | {name: each})
                )(many),
            )
            yield (
                f"{form}, vmap of the gradient by {name}",
                lambda name=name, many=many, by=by: torch.func.vmap(torch.func.grad(by(name)))(
                    many
                ),
            )
            yield (
                f"{form}, Hessian by {name}",
                lambda name=name, given=given, by=by: torch.func.hessian(by(name))(given[name]),
            )
        yield (
            f"{form}, vmap over lengthscales",
            lambda given=given: torch.func.vmap(
                lambda ell: laplex.matvec(**given | {"lengthscale": ell}), out_dims=1
            )(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)),
        )
        yield f"{form}, batched gradients", partial(batched_gradients, given)
        yield f"{form}, dual numbers", partial(dual, given)
        for backend in ("eager", "aot_eager"):
            yield (
                f"{form}, compiled with {backend}",
                partial(compiled, given, backend),
            )
        yield f"{form}, autocast", partial(autocast, single)
        yield f"{form}, inference mode", partial(inference, given)
        yield f"{form}, one gradient of seven", partial(one_by_one, given)


def weighted(result: Tensor) -> Tensor:
    product = weights(result).conj() * result
    return (product.real if product.is_complex() else product).sum()


def forward_over_reverse(given: Arguments) -> Any:
    def gradient(targets: Tensor) -> Tensor:
        return torch.func.grad(lambda x: weighted(laplex.matvec(**given | {"targets": x})))(targets)

    return torch.func.jvp(gradient, (given["targets"],), (weights(given["targets"]),))


def batched_gradients(given: Arguments) -> Any:
    given = leaves(given)
    result = laplex.matvec(**given)
    many = torch.stack([weights(result), 2 * weights(result).flip(0)])
    return torch.autograd.grad(
        result, list(tensors(given).values()), many, is_grads_batched=True, allow_unused=True
    )


def dual(given: Arguments) -> Any:
    with forward_ad.dual_level():
        inputs = {
            name: forward_ad.make_dual(each, weights(each)) for name, each in tensors(given).items()
        }
        return tuple(forward_ad.unpack_dual(laplex.matvec(**given | inputs)))


def compiled(given: Arguments, backend: str) -> Any:
    torch.compiler.reset()
    given = leaves(given)
    result = torch.compile(lambda: laplex.matvec(**given) * 2, backend=backend, fullgraph=True)()
    result.backward(weights(result))
    return {"product": result} | {name: each.grad for name, each in tensors(given).items()}


def autocast(given: Arguments) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return laplex.matvec(**given)


def inference(given: Arguments) -> Tensor:
    with torch.inference_mode():
        return laplex.matvec(**given)


def one_by_one(given: Arguments) -> Any:
    found = {}
    for name, each in tensors(given).items():
        leaf = each.detach().requires_grad_()
        result = laplex.matvec(**given | {name: leaf})
        result.backward(weights(result))
        found[name] = leaf.grad
    return found


# --- the other two ------------------------------------------------------------------------------


def operator() -> Calls:
    draw = Draws(4)
    for form, own, batch in itertools.product(FORMS, (True, False), ((), (3,))):
        given = draw.arguments(
            form, targets=(*batch, 12), sources=None if own else (*batch, 9), batch=batch
        )
        vector = given.pop("values")
        sides = (draw(12), draw(12, 4), vector, draw(len(vector), 4))
        name = f"{form}, {'self' if own else 'cross'}, {'batch' if batch else 'one'}"
        yield name, partial(of_operator, given, *sides)
        yield (
            f"{name}, gradients",
            partial(operator_gradients, given, vector),
        )


def of_operator(
    given: Arguments, left: Tensor, lefts: Tensor, right: Tensor, rights: Tensor
) -> Any:
    K = laplex.LaplaceOperator(**given)
    single = K.to(torch.float32)
    found = {
        "vector": K @ right,
        "columns": K @ rights,
        "matvec": K.matvec(rights.mT[:, None]) if K.shape[:-2] else K.matvec(rights.mT),
        "vector from the left": left @ K,
        "rows from the left": lefts.mT @ K,
        "transpose": K.T @ left,
        "transpose of columns": K.mT @ lefts,
        "adjoint": K.H @ lefts,
        "dense": K.to_dense(),
        "dense adjoint": K.H.to_dense(),
        "array": np.asarray(K),
        "float32": single @ rights.float(),
        "plan": K.to_plan().apply(right.numpy()),
        "text": repr(K),
    }
    if not K.real_part:
        found["rank"] = K.rank()
    if not K.shape[:-2]:
        found["scipy"] = K.to_scipy() @ right.numpy()
        if K.dtype is torch.float64:
            found["linear operator"] = K.to_linear_operator() @ rights
    return found


def operator_gradients(given: Arguments, vector: Tensor) -> Any:
    found = {}
    for name, value in (
        ("product", lambda K: K @ vector),
        ("adjoint of product", lambda K: K.H.matvec(K @ vector)),
        ("dense", lambda K: K.to_dense()),
    ):
        inputs = leaves(given)
        result = value(laplex.LaplaceOperator(**inputs))
        result.backward(weights(result))
        found |= {f"{name} by {key}": each.grad for key, each in tensors(inputs).items()}
    return found


def plan() -> Calls:
    draw = Draws(5)
    batches: dict[str, tuple[Arguments, tuple[int, ...]]] = {
        "one": ({}, ()),
        "rows": ({}, (5,)),
        "heads": ({"targets": (3, 30), "sources": (3, 24), "batch": (3,)}, (3,)),
        "rows x heads": ({"targets": (3, 30), "sources": (3, 24)}, (5, 3)),
        "heads x rows x heads": ({"targets": (2, 1, 3, 30), "sources": (3, 24)}, (2, 4, 3)),
        "n = 5000": ({"targets": (5000,), "sources": (4000,)}, (2,)),
    }
    for form, (precision, dtype), own, (batch, (shapes, lead)) in itertools.product(
        FORMS, PRECISIONS.items(), (True, False), batches.items()
    ):
        if batch == "n = 5000" and form not in FEW:
            continue
        shapes = {"targets": (30,), "sources": (24,)} | shapes
        n = shapes["targets"][-1]
        m = n if own else shapes["sources"][-1]
        given = draw.arguments(form, dtype, **shapes | ({"sources": None} if own else {}))
        del given["values"]
        name = f"{form}, {precision}, {'self' if own else 'cross'}, {batch}"
        for kind in (dtype, COMPLEX[dtype]):
            v, u = (draw(*lead, size).to(kind) for size in (m, n))
            if kind.is_complex:
                v, u = v + 1j * v.flip(-1), u - 1j * u.flip(-1)
            yield (
                f"{name}, {'complex' if kind.is_complex else 'real'} values",
                partial(of_plan, given, v.numpy(), u.numpy()),
            )
    yield from plan_habits(draw)


def numpy_plan(given: Arguments) -> laplex.Plan:
    arrays = {
        name: each.numpy() if isinstance(each, Tensor) else each for name, each in given.items()
    }
    return laplex.Plan(**arrays)


def of_plan(given: Arguments, v: np.ndarray, u: np.ndarray) -> Any:
    plan = numpy_plan(given)
    product = plan.apply(v)
    out = np.empty_like(product)
    plan.apply(v, out=out)
    left, right = plan.half_sums(v)
    moved = [each if each is None else each + 0.01 for each in (given["targets"], given["sources"])]
    shaken = [each if each is None else each.flip(-1).numpy() for each in moved]
    cotangent = np.broadcast_to(u, product.shape).astype(product.dtype)
    gradients = plan.vjp(v, cotangent)
    found = {
        "apply": product,
        "out": out,
        "transpose": plan.transpose(u),
        "adjoint": plan.adjoint(u),
        "left half": left,
        "right half": right,
        "shape": plan.shape,
        "bytes": plan.nbytes,
    }
    found |= {f"gradient by {name}": each for name, each in gradients._asdict().items()}
    if "real_part" not in given:  # for which there is no such rule
        found["rank"] = plan.rank()
    if product.shape[-1] < 1000:
        found["dense"] = plan.to_dense()
    copy = pickle.loads(pickle.dumps(plan))
    found["apply of a copy"] = copy.apply(v)
    plan.update(*(each if each is None else each.numpy() for each in moved))
    found["apply when moved"] = plan.apply(v)
    plan.update(*shaken)
    found["apply when shaken"] = plan.apply(v)
    return found


def plan_habits(draw: Draws) -> Calls:
    x, y = draw(30).numpy(), draw(24).numpy()
    real = laplex.Plan(x, y, lengthscale=0.5)
    phased = laplex.Plan(x, y, frequency=2.0, target_phase=x)
    single = laplex.Plan(x.astype(np.float32), y.astype(np.float32), lengthscale=0.5)
    whole = laplex.Plan(np.arange(10), np.arange(0, 20, 2), lengthscale=3)
    matrix, rows = draw(24, 5).numpy(), draw(5, 48).numpy()[:, ::2]
    half = draw(4, 24).numpy().astype(np.float16)
    for name, plan in (("real", real), ("phased", phased)):
        yield f"{name}, columns", lambda plan=plan: plan @ matrix
        yield f"{name}, rows from the left", lambda plan=plan: np.stack([x, x[::-1]]) @ plan
        yield f"{name}, strided rows", lambda plan=plan: plan.apply(rows)
        yield f"{name}, columns as rows", lambda plan=plan: plan.apply(matrix.T)
        yield f"{name}, other byte order", lambda plan=plan: plan.apply(rows.astype(">f8"))
        yield f"{name}, integers", lambda plan=plan: plan.apply(np.arange(24))
        yield f"{name}, array", lambda plan=plan: np.asarray(plan)
        yield f"{name}, text", partial(repr, plan)
    yield "matvec", lambda: real.matvec(matrix)
    yield "rmatvec", lambda: real.rmatvec(x)
    yield "scipy", lambda: aslinearoperator(real) @ matrix
    yield "float16", lambda: single.apply(half)
    yield "float16, half sums", lambda: single.half_sums(half)
    yield "float16, gradients", lambda: single.vjp(half, np.ones((4, 30), np.float32))
    yield "integer anchors", lambda: whole.apply(np.arange(10))
    yield "two threads", lambda: laplex.Plan(x, y, num_threads=2).apply(rows)
    yield "no sources", lambda: laplex.Plan(x, y[:0]).apply(np.empty((2, 0)))
    yield "no targets", lambda: laplex.Plan(x[:0], y).vjp(y, x[:0])


# --- what is refused ----------------------------------------------------------------------------


def refusals() -> Calls:
    x, v = torch.arange(4.0), torch.ones(4)
    wrong: dict[str, Arguments] = {
        "a list": {"targets": [0.0, 1.0]},
        "integers": {"targets": x.long()},
        "half anchors": {"targets": x.half()},
        "a number": {"targets": x[0]},
        "other sources": {"sources": x.double()},
        "too few values": {"values": v[:3]},
        "integer values": {"values": v.long()},
        "double values": {"values": v.double()},
        "no shape": {"values": v[0]},
        "short phase": {"target_phase": x[:2]},
        "double phase": {"source_phase": x.double()},
        "lengthscale 0": {"lengthscale": 0.0},
        "negative lengthscale": {"lengthscale": torch.tensor(-1.0)},
        "lengthscale of text": {"lengthscale": "long"},
        "huge lengthscale": {"lengthscale": 10**400},
        "integer lengthscale": {"lengthscale": torch.tensor(2)},
        "infinite frequency": {"frequency": float("inf")},
        "NaN": {"targets": x.clone().fill_(torch.nan)},
        "flag": {"real_part": 1},
        "batches": {"targets": torch.ones(2, 4), "values": torch.ones(3, 4)},
        "sparse": {"values": torch.ones(4).to_sparse()},
    }
    for name, changed in wrong.items():
        for recorded in (False, True):
            given = {"values": v, "targets": x.clone().requires_grad_(recorded)} | changed
            yield f"matvec, {name}{', recorded' * recorded}", refused(laplex.matvec, given)
        given = {"targets": x} | changed
        values = given.pop("values", None)
        yield f"operator, {name}", refused(laplex.LaplaceOperator, given)
        arrays = {
            key: each.numpy() if isinstance(each, Tensor) and not each.is_sparse else each
            for key, each in given.items()
        }
        yield f"plan, {name}", refused(laplex.Plan, arrays)
        if values is not None:
            yield f"apply, {name}", refused(laplex.Plan(x.numpy()).apply, {"v": values})


def refused(call: Callable[..., Any], given: Arguments) -> Callable[[], str]:
    def sentence() -> str:
        try:
            return f"taken: {call(**given)}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    return sentence


AREAS = {
    "matvec": matvec,
    "matvec batches": matvec_batches,
    "matvec layouts": matvec_layouts,
    "matvec derivatives": matvec_derivatives,
    "operator": operator,
    "plan": plan,
    "refusals": refusals,
}
