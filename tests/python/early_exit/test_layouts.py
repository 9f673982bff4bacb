"""Which dimension of an activation holds the channels, and how networks take their inputs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export_cases import stand_in
from laplex.early_exit import Inputs, MaxSoftmax, MultiExitModel

pytestmark = pytest.mark.usefixtures("seeded")


class Recurrent(nn.Module):
    """Images as sequences of columns: after the convolution, no layer has told the width yet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.i = nn.Conv2d(1, 8, 3, padding=1), nn.Identity()
        self.lstm, self.end = nn.LSTM(8 * width, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(self.conv(x).permute(0, 2, 1, 3).flatten(2))
        return self.end(self.lstm(h)[0][:, -1])


class Patches(nn.Module):
    def __init__(self, dim: int, *, fixed: bool = False) -> None:
        super().__init__()
        self.proj, self.i, self.end = nn.Conv2d(3, dim, 4, 4), nn.Identity(), nn.Linear(dim, 3)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        if self.fixed and x.shape[-1] != 16:
            raise ValueError("one size only")
        return self.end(self.i(self.proj(x).flatten(2).transpose(1, 2)).mean(1))


class Joined(nn.Module):
    """A convolution over tokens, beside the tokens themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.i, self.end = nn.Conv1d(4, 8, 3, padding=1), nn.Identity(), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.i(torch.cat((self.conv(x.mT).mT, x), -1)).mean(1))


class Temporal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.i, self.end = nn.Conv1d(6, 6, 3, padding=1), nn.Identity(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.i(x + self.conv(x.mT).mT).mean(1))


@pytest.mark.parametrize(
    ("backbone", "shape", "features"),
    [
        (Patches(16), (2, 3, 16, 16), 16),  # as many patches as channels
        (Patches(9), (2, 3, 16, 16), 9),
        (Joined(), (2, 10, 4), 12),
        (Joined(), (2, 8, 4), 12),  # as many tokens as the convolution has channels
        (Temporal(), (2, 6, 6), 6),
        (Temporal(), (2, 9, 6), 6),
    ],
)
def test_the_channels_are_what_does_not_grow(
    backbone: nn.Module, shape: tuple[int, ...], features: int
) -> None:
    model = MultiExitModel.attach(backbone, ["i"], num_classes=3, example=torch.randn(shape))
    assert model.heads[0].linear.in_features == features  # type: ignore[union-attr]
    assert model.layouts[0] == (2, 0)


@pytest.mark.parametrize(
    ("backbone", "shape"),
    [(Recurrent(4), (2, 1, 10, 4)), (Patches(16, fixed=True), (2, 3, 16, 16))],
)
def test_what_cannot_be_decided_is_refused(backbone: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    with pytest.raises(ValueError, match=r"its channels may be dimension 1 .* pass channel_axis="):
        MultiExitModel.attach(backbone, ["i"], num_classes=3, example=x)
    model = MultiExitModel.attach(backbone, ["i"], num_classes=3, example=x, channel_axis=-1)
    assert model(x)[0].shape == (2, 3)
    with pytest.raises(ValueError, match="channel_axis is 0 for exit 'i', whose activation is"):
        MultiExitModel.attach(backbone, ["i"], num_classes=3, example=x, channel_axis=0)
    with pytest.raises(ValueError, match="channel_axis names 'j', which is not an exit"):
        MultiExitModel.attach(backbone, ["i"], num_classes=3, example=x, channel_axis={"j": 1})


class Two(nn.Module):
    """Two arguments that it needs, and one by the name of labels that it needs as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, label: Tensor, shift: bool = False) -> Tensor:
        h = self.a(x + label[:, None])
        return self.b(h + x.repeat(1, 2)[: len(h)] if shift else h)


def test_every_way_of_passing_several_arguments() -> None:
    model = MultiExitModel(Two(), {"a": nn.Linear(8, 3)}).eval()
    x, label = torch.randn(16, 4), torch.randn(16)
    policy = MaxSoftmax(0.4)
    wanted = policy.exit_index(torch.stack(model(x, label)))
    assert 0 < wanted.sum() < 16
    for given in ((x, label), Inputs((x, label)), Inputs((x,), {"label": label})):
        assert torch.equal(model.predict(given, policy).exit_index, wanted)
    assert torch.equal(model.predict({"x": x, "label": label}, policy).exit_index, wanted)
    # Another value of an argument may be another network: rows are then cut elsewhere.
    shifted = {"x": x, "label": label, "shift": True}
    logits = torch.stack(model(shifted))
    found = model.predict(shifted, policy)
    assert torch.equal(found.exit_index, policy.exit_index(logits))
    torch.testing.assert_close(found.logits, logits[found.exit_index, torch.arange(16)])
    with pytest.raises(
        ValueError, match="x has 'more', which the backbone's forward does not take"
    ):
        model.predict({"x": x, "label": label, "more": x}, policy)
    with pytest.raises(TypeError, match=r"x must hold Tensors, .* got ndarray: convert arrays"):
        model.predict(x.numpy(), policy)
    with pytest.raises(ValueError, match="give what all samples share a first dimension of 1"):
        model.predict({"x": x, "label": label, "shift": torch.zeros(4, 4)}, policy)


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.end = nn.Linear(4, 3)

    def forward(
        self, x: Tensor, attention_mask: Tensor, decoder_attention_mask: Tensor, hidden: Tensor
    ) -> Tensor:
        return self.end(self.decoder(self.encoder(x)).mean(1))


def test_each_exit_has_its_mask() -> None:
    x = torch.randn(3, 5, 4)
    first = (torch.arange(5) < 3).long().expand(3, 5)
    inputs = {
        "x": x,
        "attention_mask": first,
        "decoder_attention_mask": torch.ones_like(first),
        "hidden": first == 0,
    }

    def attach(**more: object) -> list[float]:
        torch.manual_seed(0)
        model = MultiExitModel.attach(
            Padded(), ["encoder", "decoder"], num_classes=3, example=inputs, head="linear", **more
        )
        features: list[Tensor] = []
        for one in model.heads:
            one.linear.register_forward_pre_hook(lambda _, given: features.append(given[0]))
        net = model.eval().backbone
        with torch.no_grad():
            model(inputs)
            encoded = net.encoder(x)
            decoded = net.decoder(encoded)
        return [
            float((found - wanted).abs().max())
            for found, tokens in zip(features, (encoded, decoded), strict=True)
            for wanted in (tokens.mean(1), tokens[:, :3].mean(1))
        ]

    def near(distances: list[float]) -> list[bool]:
        return [one < 1e-6 for one in distances]

    assert near(attach()) == [False, True, True, False]
    assert near(attach(mask=None)) == [True, False, True, False]
    assert near(attach(mask={"decoder": "attention_mask"})) == [False, True, False, True]
    assert near(attach(mask="~hidden")) == [False, True, False, True]
    with pytest.raises(
        ValueError, match="mask is 'msk', but the backbone's forward takes x, atten"
    ):
        attach(mask="msk")
    with pytest.raises(ValueError, match="mask names 'end', which is not an exit"):
        attach(mask={"end": None})


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_networks_that_torch_has_changed() -> None:
    x = torch.randn(12, 4)
    traced = MultiExitModel(torch.fx.symbolic_trace(chain()), {"0": nn.Linear(8, 3)}).eval()
    policy = MaxSoftmax(0.45)
    expected = policy.exit_index(torch.stack(traced(x)))
    assert torch.equal(traced.predict(x, policy).exit_index, expected)
    with pytest.raises(ValueError, match="exits '0' and '0@0' are the same run of a module"):
        MultiExitModel(chain(), {"0": nn.Linear(8, 3), "0@0": nn.Linear(8, 3)})
    with pytest.raises(TypeError, match="backbone is a ScriptModule"):
        MultiExitModel(_scripted(chain()), {"0": nn.Linear(8, 3)})


def _scripted(module: nn.Module) -> nn.Module:
    made: nn.Module = torch.jit.trace(module, torch.zeros(2, 4))
    return made


class Capacity(nn.Module):
    """Only the first eight samples of a batch pass, as where experts have a capacity."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h + (torch.arange(len(h)) < 8)[:, None] * h.tanh())


def test_samples_that_depend_on_each_other_in_large_batches_are_refused() -> None:
    model = MultiExitModel(Capacity(), {"a": nn.Linear(4, 3)})
    with pytest.raises(ValueError, match="depend on the other samples of its batch"):
        model.predict(torch.randn(64, 4), MaxSoftmax(0.5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Unflatten(1, (3, 1)), r"gives logits \[2, 3, 1\], but heads by name give one"),
        (lambda: nn.Linear(3, 5), "num_classes is 3, but the backbone has 5 classes"),
    ],
)
def test_logits_must_suit_the_heads(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MultiExitModel.attach(
            nn.Sequential(*chain(), make()), ["0"], num_classes=3, example=torch.zeros(2, 4)
        )


def test_heads_of_ones_own_must_fit() -> None:
    with pytest.raises(
        ValueError, match=r"exit '0' gives logits \[2, 4\], but the backbone \[2, 3"
    ):
        MultiExitModel.attach(
            chain(),
            ["0"],
            num_classes=3,
            example=torch.zeros(2, 4),
            head=lambda activation, classes: nn.Linear(activation.shape[1], classes + 1),
        )
    with pytest.raises(ValueError, match="example has no samples"):
        MultiExitModel.attach(chain(), ["0"], num_classes=3, example=torch.zeros(0, 4))


def test_models_that_share_a_backbone_hold_it_in_evaluation_mode() -> None:
    begun, done = threading.Event(), threading.Event()

    class Waiting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                begun.set()
                assert done.wait(60)
                modes.append(self.training)
            return super().forward(x)

    modes: list[bool] = []
    backbone = nn.Sequential(Waiting(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    one, other = (MultiExitModel(backbone, {"0": nn.Linear(8, 3)}) for _ in range(2))
    x, policy = torch.randn(1, 4), MaxSoftmax(0.0)
    thread = threading.Thread(target=lambda: one.predict(x, policy))
    thread.start()
    assert begun.wait(60)
    other.predict(x, policy)
    done.set()
    thread.join()
    assert modes == [False]
    assert all(module.training for module in backbone.modules())


def test_a_policy_may_remember_several_tensors() -> None:
    class Sum(MaxSoftmax):
        def score(self, k, logits, memory):  # type: ignore[no-untyped-def]
            p = logits.double().softmax(-1)
            total, count = (p, torch.ones(len(p))) if memory is None else memory
            total = p if memory is None else total + p
            return (total / total.sum(-1, keepdim=True)).amax(-1), (total, count + 1)

    model = MultiExitModel(chain(), {"0": nn.Linear(8, 3), "1": nn.Linear(8, 3)}).eval()
    x = torch.randn(32, 4)
    with torch.no_grad():
        logits = torch.stack(model(x))
    expected = Sum(0.45).exit_index(logits)
    assert 0 < expected.sum() < 64
    assert torch.equal(model.predict(x, Sum(0.45)).exit_index, expected)
    found = stand_in(logits.numpy()).predict(np.arange(32)[:, None], Sum(0.45))
    assert found.exit_index.tolist() == expected.tolist()
