"""What exits met in real use: layouts, nesting, threads, changing batches, wrappers, padding."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from architecture_cases import TRANSFORMERS, Shared, normal, text
from architecture_checks import CLOSE, all_logits, close, first, splitting
from laplex.early_exit import MaxSoftmax, MultiExitModel, evaluate
from laplex.early_exit.heads import HEADS
from strategies import quick

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Networks in double, in which rounding decides nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear(*widths: int) -> nn.Sequential:
    """Linear layers, "0", "2", ..., with a tanh between them."""
    layers: list[nn.Module] = []
    for one, two in itertools.pairwise(widths):
        layers += [nn.Linear(one, two), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Skip(nn.Module):
    """A layer that its input passes by."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.a = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).tanh() + x


def direct() -> MultiExitModel:
    return MultiExitModel(linear(4, 8, 8, 3), {"0": nn.Linear(8, 3), "2": nn.Linear(8, 3)}).eval()


def replayed() -> MultiExitModel:
    layers = nn.Sequential(Skip(), Skip(), nn.Linear(4, 3))
    return MultiExitModel(layers, {"0.a": nn.Linear(4, 3), "1.a": nn.Linear(4, 3)}).eval()


def check_real(model: MultiExitModel, x: Any, batches: tuple[int, ...] = (1, 2, 7, 64)) -> None:
    """Real exits are the offline ones; the batches come in this order."""
    logits = all_logits(model, x)
    rule = splitting(logits)
    expected = rule.exit_index(logits)
    assert len(expected.unique()) > 1
    for count in batches:
        found = model.predict(first(x, count), rule)
        assert torch.equal(found.exit_index, expected[:count])
        assert close(found.logits, logits[expected, torch.arange(64)][:count], CLOSE)


# ---------------------------------------------------------------------------------- 1. layouts


def test_channels_of_a_signal() -> None:
    network = nn.Sequential(nn.Conv1d(2, 16, 3, padding=1), nn.Flatten(), nn.Linear(800, 5))
    model = MultiExitModel.attach(network, ["0"], num_classes=5, example=torch.zeros(2, 2, 50))
    assert model.heads[0].linear.in_features == 16  # type: ignore[union-attr]
    check_real(model, normal(2, 50)(64).double())


class Permuted(nn.Module):
    """A convolution whose output has its dimensions in another order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.place = Reordered(order)
        self.back = tuple(order.index(axis) for axis in range(4))
        self.output = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.place(self.conv(x)).permute(self.back)
        logits: Tensor = self.output(maps.tanh().mean((2, 3)))
        return logits


class Reordered(nn.Module):
    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


@settings(quick, max_examples=20)
@given(
    order=st.permutations(range(4)),
    batch=st.integers(2, 9),
    head=st.sampled_from(("pooled", "conv")),
)
def test_dimensions_may_come_in_any_order(order: list[int], batch: int, head: str) -> None:
    assume(head != "conv" or order.index(2) < order.index(3))  # height comes before width
    torch.set_default_dtype(torch.float64)
    x = torch.randn(batch, 3, 5, 4)
    torch.manual_seed(0)
    network = Permuted(tuple(order))
    plain = copy.deepcopy(network)
    plain.place.order, plain.back = (0, 1, 2, 3), (0, 1, 2, 3)
    models = []
    for one, axis in ((network, order.index(1)), (plain, 1)):
        torch.manual_seed(1)
        models.append(
            MultiExitModel.attach(
                one, ["place"], num_classes=5, example=x, channel_axis=axis, head=head
            )
        )
    assert torch.allclose(all_logits(models[0], x), all_logits(models[1], x))
    rule = MaxSoftmax(0.5).with_cuts([MaxSoftmax(0).scores(all_logits(models[1], x))[0].mean()])
    found, wanted = (model.predict(x, rule).exit_index for model in models)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    ("options", "width"),
    [({}, 7), ({"bidirectional": True}, 14), ({"num_layers": 2}, 7), ({"batch_first": True}, 7)],
)
def test_recurrent_layers(kind: type[nn.RNNBase], options: dict[str, Any], width: int) -> None:
    """Also where the numbers of samples, steps and channels are equal."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.output = kind(7, 7, **options), nn.Linear(width, 5)

        def forward(self, x: Tensor) -> Tensor:
            time_first = "batch_first" not in options
            steps = self.layer(x.transpose(0, 1) if time_first else x)[0]
            logits: Tensor = self.output(steps.mean(0 if time_first else 1))
            return logits

    model = MultiExitModel.attach(
        Network(), ["layer"], num_classes=5, example=torch.randn(7, 7, 7), head="linear"
    )
    check_real(model, torch.randn(64, 7, 7))
    x = torch.randn(3, 7, 7)
    with torch.no_grad():
        model.heads[0].linear.load_state_dict(model.backbone.output.state_dict())  # type: ignore[union-attr, operator]
    assert torch.allclose(*model(x))


class Plain(nn.Module):
    """Nothing in it tells which dimension holds the channels."""

    def __init__(self, declared: str | None = None) -> None:
        super().__init__()
        self.place = nn.Tanh()
        if declared is not None:
            self.output_fmt = declared
        self.weight = nn.Parameter(torch.randn(6 * 6 * 6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.place(x).flatten(1) @ self.weight


def test_what_is_ambiguous_is_refused_unless_it_is_said() -> None:
    x = torch.randn(2, 6, 6, 6)
    with pytest.raises(ValueError, match=r"'place' is \[2, 6, 6, 6\], and its channels may be dim"):
        MultiExitModel.attach(Plain(), ["place"], num_classes=5, example=x)
    attach = functools.partial(
        MultiExitModel.attach, at=["place"], num_classes=5, example=x, head="linear"
    )
    for axis, model in (
        (3, attach(Plain("NHWC"))),
        (1, attach(Plain("NCHW"))),
        (2, attach(Plain(), channel_axis=2)),
        (3, attach(Plain(), channel_axis=-1)),
        (1, attach(Plain(), channel_axis={"place": 1})),
    ):
        pooled = x.tanh().movedim(axis, -1).mean((1, 2))
        assert torch.allclose(model(x)[0], model.heads[0].linear(pooled))  # type: ignore[operator, union-attr]
    for axis in (0, 4, {"elsewhere": 1}):
        with pytest.raises(ValueError, match="channel_axis"):
            attach(Plain(), channel_axis=axis)
    with pytest.raises(TypeError, match="channel_axis must be the number of a dimension"):
        attach(Plain(), channel_axis=1.5)


# ------------------------------------------------------------ 2. nested exits, shared modules


def test_exits_within_blocks_that_are_answered_whole() -> None:
    model = replayed()
    check_real(model, torch.randn(64, 4))
    assert model.replays is True


def test_exits_two_levels_deep_and_around_each_other() -> None:
    deep = nn.Sequential(nn.Sequential(Skip(), Skip()), nn.Sequential(Skip(), Skip()))
    names = ["0.0.a", "0.0", "0.1.a", "0", "1.0.a", "1.1"]
    model = MultiExitModel(
        nn.Sequential(*deep, nn.Linear(4, 3)), {name: nn.Linear(4, 3) for name in names}
    ).eval()
    check_real(model, torch.randn(64, 4))


def test_every_run_of_a_shared_module_may_have_an_exit() -> None:
    model = MultiExitModel(Shared(), {f"layer@{run}": nn.Linear(16, 5) for run in range(3)}).eval()
    x = torch.randn(64, 16)
    seen: list[Tensor] = []
    model.walk(x, lambda k, activation: (seen.append(activation), activation)[1])
    steps = [x]
    for _ in range(3):
        steps.append(steps[-1] + model.backbone.layer(steps[-1]).tanh())  # type: ignore[operator]
    for one, step in zip(seen, steps, strict=False):
        assert torch.allclose(one, model.backbone.layer(step))  # type: ignore[operator]
    check_real(model, x)
    with pytest.raises(ValueError, match=r"'layer' ran twice .* name its runs as 'layer@0', "):
        MultiExitModel(Shared(), {"layer": nn.Linear(16, 5)})(x)
    with pytest.raises(ValueError, match="'layer@3' did not run"):
        MultiExitModel(Shared(), {"layer@3": nn.Linear(16, 5)})(x)
    with pytest.raises(ValueError, match="'layer@0' ran before 'layer@1'"):
        MultiExitModel(Shared(), {f"layer@{run}": nn.Linear(16, 5) for run in (1, 0)})(x)
    tied = nn.Sequential(*[nn.Linear(4, 4)] * 3)
    with pytest.raises(ValueError, match="'2' is the same module as '0': name its runs '0@0', '0"):
        MultiExitModel(tied, {"2": nn.Linear(4, 4)})
    check_real(MultiExitModel(tied, {"0@1": nn.Linear(4, 4)}).eval(), torch.randn(64, 4))


# ------------------------------------------------------------------------------------- 3. threads


@pytest.mark.parametrize("make", [direct, replayed])
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_eight_threads_answer_as_one_does(make: Callable[[], MultiExitModel], known: bool) -> None:
    model = make()
    batches = [torch.randn(count, 4) for count in (1, 2, 3, 5, 8, 13, 21, 34)]
    rule = splitting(all_logits(model, torch.randn(64, 4)))
    alone = copy.deepcopy(model)
    wanted = [alone.predict(x, rule) for x in batches]
    if known:
        model.predict(batches[-1], rule)
    start = threading.Barrier(8)

    def calls(thread: int) -> int:
        start.wait()
        for call in range(100):
            k = (thread + call) % len(batches)
            found = model.predict(batches[k], rule)
            assert torch.equal(found.exit_index, wanted[k].exit_index)
            assert close(found.logits, wanted[k].logits, CLOSE)
            assert found.samples_per_segment == wanted[k].samples_per_segment
        return thread

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(calls, range(8))) == list(range(8))
    assert not model.training


class Meeting(nn.Module):
    """Goes on when two calls are inside."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier: threading.Barrier | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.barrier is not None:
            self.barrier.wait(60)
        return x


def test_two_calls_between_the_same_exits() -> None:
    """Both have passed the first exit when either goes on, every time."""
    meeting = Meeting()
    backbone = nn.Sequential(nn.Linear(4, 8), meeting, nn.Linear(8, 8), nn.Linear(8, 3))
    model = MultiExitModel(backbone, {"0": nn.Linear(8, 3), "2": nn.Linear(8, 3)}).eval()
    batches = torch.randn(5, 4), torch.randn(9, 4)
    rule = MaxSoftmax(0.0).with_cuts([2.0, 0.0])  # all leave at the second exit
    wanted = [model.predict(x, rule).logits for x in batches]
    offline = [all_logits(model, x) for x in batches]
    meeting.barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for found, one in zip(
            pool.map(lambda x: model.predict(x, rule).logits, batches), wanted, strict=True
        ):
            assert close(found, one, CLOSE)
        for found, one in zip(
            pool.map(lambda x: torch.stack(model(x)), batches), offline, strict=True
        ):
            assert close(found, one, CLOSE)


def test_tasks_of_asyncio() -> None:
    model = replayed()
    batches = [torch.randn(count, 4) for count in (3, 8, 5, 2)]
    rule = splitting(all_logits(model, torch.randn(64, 4)))
    wanted = [copy.deepcopy(model).predict(x, rule).exit_index for x in batches]

    async def here(x: Tensor) -> Tensor:
        await asyncio.sleep(0)
        return model.predict(x, rule).exit_index

    async def elsewhere(x: Tensor) -> Tensor:
        return (await asyncio.to_thread(model.predict, x, rule)).exit_index

    async def everything() -> list[Tensor]:
        return await asyncio.gather(*map(here, batches), *map(elsewhere, batches))

    for found, one in zip(asyncio.run(everything()), wanted * 2, strict=True):
        assert torch.equal(found, one)


def test_a_model_within_a_model() -> None:
    inner = direct()
    outer = MultiExitModel(
        nn.Sequential(nn.Linear(4, 4), First(inner), nn.Linear(3, 3)), {"0": nn.Linear(4, 3)}
    ).eval()
    x = torch.randn(64, 4)
    assert torch.allclose(outer(x)[1], outer.backbone[2](inner(outer.backbone[0](x))[0]))  # type: ignore[index, operator]
    check_real(outer, x)


class First(nn.Module):
    """The first exit of a model."""

    def __init__(self, model: MultiExitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[0]


def test_two_models_on_one_backbone() -> None:
    backbone = linear(4, 8, 8, 3)
    one = MultiExitModel(backbone, {"0": nn.Linear(8, 3)}).eval()
    other = MultiExitModel(backbone, {"0": nn.Linear(8, 3), "2": nn.Linear(8, 3)}).eval()
    x = torch.randn(64, 4)
    check_real(one, x)
    check_real(other, x)
    assert len(one(x)) == 2
    compiled = torch.compile(one, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x)[0], one(x)[0])
    del other
    gc.collect()
    check_real(one, x)


def test_replicas_of_data_parallel() -> None:
    """The shallow copies that nn.DataParallel makes for its threads share their hooks."""
    model = direct()
    x = torch.randn(10, 4)

    def replica() -> nn.Module:
        copies = {one: one._replicate_for_data_parallel() for one in model.modules()}
        for one, copied in copies.items():
            for name, child in one._modules.items():
                copied._modules[name] = None if child is None else copies[child]
            for name, parameter in one._parameters.items():
                setattr(copied, name, parameter)
        return copies[model]

    with ThreadPoolExecutor(2) as pool, torch.no_grad():
        parts = list(pool.map(lambda one: one[0](one[1]), [(replica(), x[:5]), (replica(), x[5:])]))
    together = torch.stack([torch.cat(logits) for logits in zip(*parts, strict=True)])
    assert close(together, all_logits(model, x), CLOSE)


# ----------------------------------------------------------------------- 4. batches that differ


class Masked(nn.Module):
    """Drops a mask of ones, as transformers does: then nothing passes the exit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, d: dict[str, Tensor]) -> Tensor:
        k = 1 if d["m"].all() else d["m"]
        logits: Tensor = self.b(self.a(d["x"]) * k)
        return logits


class Residual(Masked):
    """Adds the input of the samples that ask for it, if any do."""

    def forward(self, d: dict[str, Tensor]) -> Tensor:
        hidden = self.a(d["x"])
        logits: Tensor = self.b(hidden if d["m"].all() else hidden + d["x"] * (1 - d["m"]))
        return logits


@pytest.mark.parametrize("kind", [Masked, Residual])
@pytest.mark.parametrize("batch", [2, 64])
def test_a_backbone_that_differs_from_batch_to_batch(kind: type[Masked], batch: int) -> None:
    x = torch.randn(batch, 4)
    full = {"x": x, "m": torch.ones(batch, 1)}
    half = {"x": x, "m": (torch.arange(batch) % 2 == 0).double()[:, None]}
    for order in ((full, half, full, half), (half, full, half)):
        model = MultiExitModel(kind(), {"a": nn.Linear(4, 3)}).eval()
        for d in order:
            logits = all_logits(model, d)
            scores = MaxSoftmax(0).scores(logits)[0].sort().values
            rule = MaxSoftmax(0).with_cuts([float(scores[batch // 2 - 1 : batch // 2 + 1].mean())])
            found = model.predict(d, rule)
            expected = rule.exit_index(logits)
            assert expected.unique().tolist() == [0, 1]
            assert torch.equal(found.exit_index, expected)
            assert close(found.logits, logits[expected, torch.arange(batch)], CLOSE)


# ----------------------------------------------------------------------- 5. gradient checkpointing


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.block = nn.Linear(4, 8), linear(8, 8, 8)
        self.output, self.reentrant = nn.Linear(8, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.reentrant is None:
            x = self.block(x)
        else:
            x = checkpoint(self.block, x, use_reentrant=self.reentrant)
        logits: Tensor = self.output(x)
        return logits


def gradients(model: MultiExitModel, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    sum(logits.square().mean() for logits in model(x)).backward()  # type: ignore[union-attr]
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", ["block", "block.0", "block.1"])
def test_gradients_through_a_checkpoint(name: str) -> None:
    x = torch.randn(6, 4)
    model = MultiExitModel(Checkpointed(None), {name: nn.Linear(8, 3)})
    wanted = gradients(model, x)
    model.backbone.reentrant = False  # type: ignore[assignment]
    for found, one in zip(gradients(model, x), wanted, strict=True):
        assert torch.allclose(found, one)
    model.backbone.reentrant = True  # type: ignore[assignment]
    with pytest.raises(ValueError, match=f"exit '{name}' runs without .* pass use_reentrant=False"):
        gradients(model, x)


def test_checkpointed_layers_of_transformers() -> None:
    network = TRANSFORMERS["Bert"].make()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch, names = text(8), list(TRANSFORMERS["Bert"].at)
    model = MultiExitModel.attach(network, names, num_classes=5, example=batch)
    model.train()
    wanted = [one.clone() for one in gradients(model, batch)]
    enable: Any = getattr(network, "activation_checkpointing_enable", None)  # from 5.24 on
    (enable or network.gradient_checkpointing_enable)()
    runs: list[int] = []
    inner = network.get_submodule(f"{names[0]}.attention")
    inner.register_forward_pre_hook(lambda *_: runs.append(1))
    found = gradients(model, batch)
    assert len(runs) == 2  # once more in the backward pass
    assert len(found) == len(wanted)
    assert all(torch.allclose(one, other) for one, other in zip(found, wanted, strict=True))


# ------------------------------------------------------------------------------- 6. padding


@pytest.mark.parametrize(
    "kind", [kind for kind in sorted(HEADS) if 3 in getattr(HEADS[kind], "dimensions", (3,))]
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_moves_no_logits(kind: str, side: str) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.output = nn.Embedding(60, 8), nn.Linear(8, 5)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            words = self.words(input_ids) * attention_mask[..., None]
            logits: Tensor = self.output(words.sum(1))
            return logits

    def padded(more: int) -> dict[str, Tensor]:
        batch = text(16, more)
        return {key: one.flip(1) if side == "left" else one for key, one in batch.items()}

    def attach(**options: Any) -> MultiExitModel:
        torch.manual_seed(0)
        return MultiExitModel.attach(
            Words(), ["words"], num_classes=5, example=padded(0), head=kind, **options
        )

    model = attach()
    assert close(all_logits(model, padded(20)), all_logits(model, padded(0)), CLOSE)
    blind = attach(mask=None)
    ends = {"token": "right", "last-token": "left"}  # where padding is not in their way
    assert close(all_logits(blind, padded(20)), all_logits(blind, padded(0)), CLOSE) == (
        ends.get(kind) == side
    )


def test_tokens_that_the_mask_does_not_count() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.conv = nn.Embedding(60, 8), nn.Conv1d(8, 5, 2, 2)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.conv(self.words(input_ids).mT).mean(2)

    attach = functools.partial(
        MultiExitModel.attach, at=["conv"], num_classes=5, example=text(4), head="linear"
    )
    with pytest.raises(ValueError, match=r"12 tokens, but .* has 6: pass mask={'conv': None}"):
        attach(Strided())
    model = attach(Strided(), mask=None)
    pooled = model.backbone(**text(4))
    assert torch.allclose(model(text(4))[0], model.heads[0].linear(pooled))  # type: ignore[operator, union-attr]


# ------------------------------------------------------------------------------- 7. transformers


@pytest.mark.parametrize("name", ["Bert", "GPT2"])
def test_batches_of_a_tokenizer(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    case, batch = TRANSFORMERS[name], text(16)
    model = MultiExitModel.attach(
        case.make().eval(), list(case.at), num_classes=5, example=batch, head=case.head
    )
    logits = all_logits(model, batch)
    labels = torch.arange(16) % 5
    encoded = transformers.BatchEncoding(batch)
    for one in (encoded, {**batch, "labels": labels}):
        assert torch.equal(all_logits(model, one), logits)
    with torch.no_grad():
        assert torch.equal(torch.stack(model(**batch)), logits)
        assert torch.equal(
            torch.stack(model(batch["input_ids"], attention_mask=batch["attention_mask"])), logits
        )
    rule = splitting(logits)
    found = model.predict(encoded, rule)
    assert torch.equal(found.exit_index, rule.exit_index(logits))
    evaluation = evaluate(model, [{**batch, "labels": labels}])
    right = (logits.argmax(-1) == labels).double().mean(1)
    assert list(evaluation.accuracy) == pytest.approx(right.tolist())
    with pytest.raises(ValueError, match="'colour', which the backbone's forward does not take"):
        MultiExitModel.attach(
            Masked(), ["a"], num_classes=3, example={"d": torch.zeros(2, 4), "colour": labels[:2]}
        )


# ------------------------------------------------------------------------------- 10. wrappers


@pytest.mark.parametrize("make", [direct, replayed])
def test_a_whole_model_compiles_to_one_graph(make: Callable[[], MultiExitModel]) -> None:
    model = make()
    x = torch.randn(8, 4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(torch.stack(compiled(x)), all_logits(model, x))
    assert all(one.requires_grad for one in compiled(x))
    check_real(model, torch.randn(64, 4))
    torch.compiler.reset()


def whole(network: nn.Sequential) -> nn.Module:
    return torch.compile(network, backend="eager")  # type: ignore[return-value]


def part(network: nn.Sequential) -> nn.Module:
    network[2] = torch.compile(network[2], backend="eager")
    return network


def in_place(network: nn.Sequential) -> nn.Module:
    network.compile(backend="eager")
    return network


@pytest.mark.parametrize("wrap", [whole, part, in_place])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_names_of_compiled_networks(wrap: Callable[..., nn.Module], before: bool) -> None:
    network = linear(4, 8, 8, 3)
    plain = MultiExitModel(copy.deepcopy(network), {"0": nn.Linear(8, 3), "2": nn.Linear(8, 3)})
    model = MultiExitModel(
        wrap(network) if before else network, dict(zip(("0", "2"), plain.heads, strict=True))
    )
    if not before:
        model.backbone = wrap(network)
    assert model.exit_names == ("0", "2")
    x = torch.randn(64, 4)
    assert torch.equal(all_logits(model, x), all_logits(plain, x))
    check_real(model.eval(), x)
    torch.compiler.reset()


@pytest.fixture
def world_of_one(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
def test_names_of_distributed_networks(kind: str) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    network = linear(4, 8, 8, 3)
    plain = copy.deepcopy(network)
    if kind == "FSDP2":
        mesh = dist.init_device_mesh("cpu", (1,))
        wrapped = fully_shard(network, mesh=mesh)
    else:
        wrapped = DistributedDataParallel(network)
    model = MultiExitModel.attach(wrapped, ["0", "2"], num_classes=3, example=torch.randn(2, 4))
    model = model.to(torch.float64)
    assert model.exit_names == ("0", "2")
    x = torch.randn(64, 4)
    with torch.no_grad():
        assert torch.allclose(model(x)[-1], plain(x))
    check_real(model.eval(), x)
    sum(logits.square().mean() for logits in model(x)).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_names_of_networks_of_peft() -> None:
    peft = pytest.importorskip("peft")
    network = nn.Sequential()
    for name, layer in zip(("one", "two", "three"), linear(4, 8, 8, 3)[::2], strict=True):
        network.add_module(name, layer)
    adapted = peft.get_peft_model(network, peft.LoraConfig(target_modules=["one", "two"], r=2))
    model = MultiExitModel(adapted, {"one": nn.Linear(8, 3), "two": nn.Linear(8, 3)}).eval()
    assert model.exit_names == ("one", "two")
    check_real(model, torch.randn(64, 4))


@pytest.mark.parametrize("kind", [Skip, nn.Tanh])
def test_graph_modules(kind: type[nn.Module]) -> None:
    network = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), kind(), nn.Linear(4, 3)))
    name = "1.a" if kind is Skip else "1"
    check_real(MultiExitModel(network, {name: nn.Linear(4, 3)}).eval(), torch.randn(64, 4))


@pytest.mark.parametrize("make", [direct, replayed])
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "state_dict", "save"])
def test_copies_are_models_of_their_own(
    make: Callable[[], MultiExitModel], how: str, tmp_path: Path
) -> None:
    model = make()
    x = torch.randn(64, 4)
    check_real(model, x)
    logits = all_logits(model, x)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "save":
        torch.save(model, tmp_path / "model.pt")
        other = torch.load(tmp_path / "model.pt", weights_only=False)
    else:
        other = make()
        other.load_state_dict(model.state_dict())
    assert not any("_orig_mod" in key or "hook" in key for key in other.state_dict())
    assert torch.equal(all_logits(other, x), logits)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(all_logits(other, x), logits)
    check_real(other, x)
    del model
    gc.collect()
    check_real(other, x)
