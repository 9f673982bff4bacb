"""What passes the exits of exported models: it travels between the segments, with its own rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from laplex.early_exit import ExportedModel, MaxSoftmax, MultiExitModel, Patience, export
from laplex.early_exit.activations import Inputs

pytestmark = pytest.mark.usefixtures("seeded", "one_table_of_operators")

#: Two float32 evaluations of some thousand terms, in units of the largest logit and 1.
CLOSE = 1e-5


def agrees(model, files, x):
    """The logits of all exits, and the decisions at a threshold that half of the samples reach."""
    with torch.no_grad():
        logits = torch.stack(model(x))
    found = files.logits(x)
    assert np.abs(found - logits.numpy()).max() <= CLOSE * (1 + float(logits.abs().max()))
    scores = MaxSoftmax(0.5).scores(logits)[:-1].flatten().sort().values
    gaps = scores.diff()
    at = len(scores) // 4
    at += int(gaps[at : at + len(gaps) // 2 + 1].argmax()) if len(gaps) else 0
    rule = MaxSoftmax(float(scores[at : at + 2].mean()) if len(gaps) else 0.5)
    expected, got = model.predict(x, rule), files.predict(x, rule)
    assert got.exit_index.tolist() == expected.exit_index.tolist()
    assert got.samples_per_segment == expected.samples_per_segment
    assert np.array_equal(got.labels, expected.labels.numpy())
    return got


def linear_at(backbone, widths, classes=3):
    heads = {name: nn.Linear(width, classes) for name, width in widths.items()}
    return MultiExitModel(backbone, heads).eval()


class Skip(nn.Module):
    """The input and the first layer pass by the second, the first also by the third."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(5, 5) for _ in range(3))
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        one = self.first(x).tanh()
        two = self.second(one).tanh() + x.abs()
        return self.last(self.third(two).tanh() * one + one)


class Aside(Skip):
    """Nothing uses the output of the module of the exit, like that of an auxiliary classifier."""

    def forward(self, x):
        one = self.first(x)
        self.second(one)
        return self.last(one)


class Sizes(Skip):
    """A size alone, and row numbers, which are those of the samples that are left."""

    def forward(self, x):
        two = self.second(self.first(x))
        rows = torch.arange(x.shape[0])
        return self.last(two)[rows, :] + torch.zeros(x.shape[0], 1)


@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize("kind", [Skip, Aside, Sizes])
def test_what_passes_an_exit_travels(kind, form, tmp_path):
    names = {"first": 5, "second": 5} | ({"third": 5} if kind is Skip else {})
    model = linear_at(kind(), names)
    files = ExportedModel.load(
        export(model, torch.randn(4, 5), tmp_path / "files", format=form), trusted=True
    )
    for batch in (1, 7, 64):
        agrees(model, files, torch.randn(batch, 5))


def test_inputs_travel_and_what_follows_from_them_is_computed_again(tmp_path):
    model = linear_at(Skip(), {"first": 5, "second": 5, "third": 5})
    files = ExportedModel.load(
        export(model, torch.randn(4, 5), tmp_path / "f", format="torch"), trusted=True
    )
    taken = [[one["name"] for one in part["inputs"]] for part in files.manifest["segments"]]
    # The input itself, for its absolute values; past the third exit, what followed the first one.
    assert taken == [
        ["input_0"],
        ["segment0_0"],
        ["input_0", "segment1_1"],
        ["segment1_0", "segment2_0"],
    ]
    assert all(one["batch_axis"] == 0 for one in files.manifest["segments"][2]["inputs"])


class TimeFirst(nn.Module):
    """Activations [tokens, batch, width], and states of an LSTM [layers, batch, width]."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(4, 6, num_layers=2), nn.LSTM(6, 6, num_layers=2)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        hidden, state = self.first(x.transpose(0, 1))
        hidden, state = self.second(hidden, state)
        return self.last(hidden[-1])


class LastStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, activation):
        return self.linear(activation[0][-1])


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_rows_are_cut_along_the_batch_axis(form, tmp_path):
    """Though as many tokens as samples stand beside it."""
    model = MultiExitModel(TimeFirst(), {"first": LastStep(), "second": LastStep()}).eval()
    files = ExportedModel.load(
        export(model, torch.randn(5, 5, 4), tmp_path / "f", format=form), trusted=True
    )
    shapes = {
        (tuple(one["shape"]), one["batch_axis"]) for one in files.manifest["segments"][1]["inputs"]
    }
    assert shapes == {((5, "batch", 6), 1), ((2, "batch", 6), 1)}
    for batch in (1, 5, 7):
        agrees(model, files, torch.randn(batch, 5, 4))


def test_what_has_no_batch_axis_travels_as_it_is(tmp_path):
    class Shared(Skip):
        def forward(self, x, table):
            shift = self.third(table).sum(0)
            return self.last(self.second(self.first(x)) + shift)

    model = linear_at(Shared(), {"first": 5, "second": 5})
    example = {"x": torch.randn(4, 5), "table": torch.randn(1, 5)}
    files = ExportedModel.load(
        export(model, example, tmp_path / "files", format="torch"), trusted=True
    )
    axes = {one["name"]: one["batch_axis"] for one in files.manifest["inputs"]}
    assert axes == {"input_0": 0, "input_1": None}
    last = {one["name"]: one["batch_axis"] for one in files.manifest["segments"][2]["inputs"]}
    assert sorted(last.values(), key=str) == [0, None]
    agrees(model, files, {"x": torch.randn(7, 5), "table": torch.randn(1, 5)})


# --- sequences -----------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A text model: tokens, a mask, positions, all needed in every layer."""

    def __init__(self, width=8):
        super().__init__()
        self.embed, self.place = nn.Embedding(11, width), nn.Embedding(20, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 9, batch_first=True) for _ in range(3)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids, attention_mask):
        padding = attention_mask == 0
        hidden = self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1]))
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        return self.head(hidden[:, 0])


def text(batch, tokens, seed=0, vocabulary=11):
    made = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocabulary, (batch, tokens), generator=made)
    lengths = torch.randint(1, tokens + 1, (batch, 1), generator=made)
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def encoder(head="linear"):
    return MultiExitModel.attach(
        Encoder(), ["layers.0", "layers.1"], num_classes=3, example=text(4, 5), head=head
    ).eval()


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_masked_sequences_of_any_length(form, tmp_path):
    model = encoder()
    example = {**text(4, 5), "labels": torch.zeros(4, dtype=torch.long)}
    files = ExportedModel.load(
        export(model, example, tmp_path / "files", format=form), trusted=True
    )
    assert [one["shape"] for one in files.manifest["inputs"]] == [["batch", "tokens"]] * 2
    for batch, tokens in ((1, 9), (7, 5), (30, 12), (3, 1)):
        agrees(model, files, text(batch, tokens, seed=batch))
    arrays = {name: one.numpy() for name, one in text(6, 8).items()}
    got = files.predict({**arrays, "labels": np.zeros(6)}, MaxSoftmax(0.4))
    same = files.predict(Inputs((), arrays), MaxSoftmax(0.4))
    assert np.array_equal(got.logits, same.logits)
    with pytest.raises(ValueError, match=r"x\['attention_mask'\] has 5 tokens, but another input"):
        files.logits({**arrays, "attention_mask": arrays["attention_mask"][:, :5]})


def test_sizes_are_dynamic_where_they_are_named(tmp_path):
    model, example = encoder(), text(4, 5)
    fixed = ExportedModel.load(
        export(model, example, tmp_path / "a", format="torch", dynamic={}), trusted=True
    )
    with pytest.raises(ValueError, match=r"x\['input_ids'\] must be \[batch, 5\], got"):
        fixed.logits(text(4, 6))
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    net.append(nn.Linear(4, 3))
    model = MultiExitModel.attach(net, ["1"], num_classes=3, example=torch.randn(3, 2, 9)).eval()
    folder = export(model, torch.randn(3, 2, 9), tmp_path / "b", dynamic={2: "length"})
    files = ExportedModel.load(folder, trusted=True)
    assert files.manifest["inputs"][0]["shape"] == ["batch", 2, "length"]
    for length in (4, 9, 31):
        agrees(model, files, torch.randn(6, 2, length))


def pooling(pool, head="conv"):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(4, 8, 1))
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)])
    example = torch.randn(2, 1, 8, 8)
    return MultiExitModel.attach(net, ["1"], num_classes=3, example=example, head=head).eval()


@pytest.mark.parametrize(
    ("pool", "head", "message"),
    [
        (nn.AdaptiveAvgPool2d(2), "conv", r"differ by .* for h = 9, though .* pass format=.torch"),
        (nn.Identity(), "grid", r"differ by .* for h = 9, though .* leave h out of dynamic"),
        (nn.AdaptiveMaxPool2d(3), "conv", r"'output' cannot be written as ONNX: .*max_pool2d"),
    ],
)
def test_what_onnx_cannot_vary_is_refused(pool, head, message, tmp_path):
    """The windows of an adaptive pooling, which follow from the size."""
    model, x, sizes = pooling(pool, head), torch.randn(3, 1, 8, 8), {2: "h", 3: "w"}
    with pytest.raises(ValueError, match=message):
        export(model, x, tmp_path / "files", dynamic=sizes)
    assert not list(tmp_path.iterdir())
    folder = export(model, x, tmp_path / "files", format="torch", dynamic=sizes)
    agrees(model, ExportedModel.load(folder, trusted=True), torch.randn(6, 1, 11, 7))


class Picky(nn.Module):
    """Takes square images; outside of a trace, only those that `takes` names."""

    def __init__(self, *takes):
        super().__init__()
        self.linear, self.takes = nn.Linear(1, 3), takes

    def forward(self, x):
        if not torch.compiler.is_compiling() and x.shape[1] not in self.takes:
            raise RuntimeError("no")
        return self.linear((x + x.mT).mean((1, 2))[:, None])


def test_sizes_that_a_model_does_not_take_are_tried_together_or_refused(tmp_path):
    x, sizes = torch.randn(3, 8, 8), {1: "h", 2: "w"}
    for takes in ((8, 9), (8, 16), (8, 7)):
        model = MultiExitModel(Picky(*takes), {"linear": nn.Identity()}).eval()
        folder = export(model, x, tmp_path / str(takes), format="torch", dynamic=sizes)
        agrees(model, ExportedModel.load(folder, trusted=True), torch.randn(5, *(takes[1:] * 2)))
    model = MultiExitModel(Picky(8), {"linear": nn.Identity()}).eval()
    with pytest.raises(ValueError, match="takes h = 8 in the example, but none of 9, 16, 7"):
        export(model, x, tmp_path / "files", format="torch", dynamic=sizes)


@pytest.mark.parametrize(
    ("dynamic", "error", "message"),
    [
        (["tokens"], TypeError, "dynamic must map axes to names"),
        ({"ids": {1: "tokens"}}, ValueError, r"dynamic\['ids'\] is for no input: .*input_ids"),
        ({"input_ids": {0: "rows"}}, ValueError, "must name axes from 1 to 1, got 0"),
        ({"input_ids": {1: "batch"}}, ValueError, "a name other than 'batch'"),
        ({"input_ids": {1: "to kens"}}, ValueError, "such as 'tokens', got 'to kens'"),
    ],
)
def test_dynamic_says_what_it_needs(dynamic, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export(encoder(), text(4, 5), tmp_path / "files", format="torch", dynamic=dynamic)
    assert not list(tmp_path.iterdir())


def test_a_length_that_is_fixed_in_the_forward_is_named(tmp_path):
    net = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(20, 3))

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, input_ids):
            return self.net(input_ids)

    model = MultiExitModel(Fixed(), {"net.1": nn.Linear(20, 3)}).eval()
    x = {"input_ids": text(4, 5)["input_ids"]}
    with pytest.raises(ValueError, match=r"fixes the size 5 .* pass dynamic={} to"):
        export(model, x, tmp_path / "files", format="torch")
    files = ExportedModel.load(
        export(model, x, tmp_path / "f", format="torch", dynamic={}), trusted=True
    )
    agrees(model, files, {"input_ids": text(7, 5)["input_ids"]})


def test_a_longest_length_is_kept(tmp_path):
    class Table(Encoder):
        def forward(self, input_ids, attention_mask):
            hidden = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
            hidden = self.layers[0](hidden, src_key_padding_mask=attention_mask == 0)
            return self.head(self.layers[1](hidden).mean(1))

    model = MultiExitModel.attach(
        Table(), ["layers.0"], num_classes=3, example=text(4, 5), head="token"
    ).eval()
    files = ExportedModel.load(
        export(model, text(4, 5), tmp_path / "f", format="torch"), trusted=True
    )
    assert files.manifest["largest_sizes"] == {"tokens": 20}
    agrees(model, files, text(5, 20))
    with pytest.raises(ValueError, match="21 in tokens: the model takes at least 1 and at most 20"):
        files.logits(text(5, 21))


# --- heads that see earlier exits ----------------------------------------------------------------


class Ensemble(nn.Module):
    """Adds its logits to those of the heads before it, and counts them."""

    carries = True

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, 3)

    def forward(self, activation, carried):
        logits = self.linear(activation)
        if carried is not None:
            logits = logits + carried["sum"] / carried["count"][0]
        count = torch.ones_like(logits[:, :1]) if carried is None else carried["count"][0] + 1
        return logits, {"sum": logits, "count": (count,)}


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_what_heads_carry_travels(form, tmp_path):
    backbone = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3)), nn.Tanh(), nn.Linear(5, 4))
    heads = {name: Ensemble(5) for name in ("0", "1", "3")}
    model = MultiExitModel(backbone, heads, Ensemble(4)).eval()
    policy = Patience(1)
    folder = export(model, torch.randn(4, 5), tmp_path / "files", format=form, policy=policy)
    files = ExportedModel.load(folder, trusted=True)
    for batch in (1, 7, 40):
        x = 3 * torch.randn(batch, 5)
        agrees(model, files, x)
        expected = model.predict(x, policy)
        assert files.predict(x).exit_index.tolist() == expected.exit_index.tolist()


# --- what is refused -----------------------------------------------------------------------------


class Windows(Skip):
    """Rows of half samples pass the exit."""

    def forward(self, x):
        halves = self.third(x.reshape(-1, 5))
        first = self.second(x.sum(1))
        return self.last(first + halves.reshape(x.shape[0], 2, 5).sum(1))


class Ranks(Skip):
    """What passes depends on the other samples."""

    def forward(self, x):
        one = self.first(x)
        order = x + torch.arange(x.shape[0])[:, None]
        return self.last(self.second(one) * order)


class Counts(Skip):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.last(self.first(x))


class FixesTheBatch(Skip):
    def forward(self, x):
        return self.last(self.first(x).reshape(len(x), -1))


class Branches(Skip):
    def forward(self, x):
        x = self.first(x)
        return self.last(x if bool((x > 0).any()) else -x)


class AcrossSamples(Skip):
    def forward(self, x):
        return self.last(self.first(x.T).T)


REFUSED = {
    "state": (Counts, 5, "changes 'model.backbone.calls' in evaluation mode"),
    "batch": (FixesTheBatch, 5, r"fixes the batch size .* write x.shape\[0\]"),
    "branch": (Branches, 5, "the model cannot be traced by torch.export: Could not guard"),
    "across samples": (AcrossSamples, 4, "fixes the batch size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_can_not_be_cut(case, tmp_path):
    kind, width, message = REFUSED[case]
    model = linear_at(kind(), {"first": width})
    model.backbone.first = nn.Linear(width, width)
    with pytest.raises(ValueError, match=message):
        export(model, torch.randn(4, 5), tmp_path / "files", format="torch")
    assert not list(tmp_path.iterdir())


def test_rows_that_are_no_samples_do_not_pass(tmp_path):
    model = linear_at(Windows(), {"second": 5})
    with pytest.raises(
        ValueError,
        match=r"a tensor of shape \[2\*batch, 5\] passes exit 'second', and none of its dimensions",
    ):
        export(model, torch.randn(4, 2, 5), tmp_path / "files", format="torch")
    assert not list(tmp_path.iterdir())


def test_samples_that_depend_on_one_another_do_not_leave(tmp_path):
    model = linear_at(Ranks(), {"second": 5})
    with pytest.raises(ValueError, match="when others leave at exit 'second': what passes it dep"):
        export(model, torch.randn(4, 5), tmp_path / "files", format="torch")
    assert not list(tmp_path.iterdir())


def test_logits_need_a_row_for_each_sample(tmp_path):
    backbone = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))
    model = MultiExitModel(backbone, {"0": nn.Unflatten(1, (5, 1))}).eval()
    with pytest.raises(ValueError, match=r"exit '0' gives logits \[batch, 5, 1\], not one row"):
        export(model, torch.randn(4, 5), tmp_path / "files", format="torch")
    assert not list(tmp_path.iterdir())


# --- int8 ----------------------------------------------------------------------------------------


def test_int8_says_what_it_changes(tmp_path):
    net = nn.Sequential(nn.Linear(5, 128), nn.ReLU(), nn.Linear(128, 128), nn.Linear(128, 3))
    model, x, policy = linear_at(net, {"1": 128}), torch.randn(16, 5), MaxSoftmax(0.4)
    folder = export(model, x, tmp_path / "int8", policy=policy, quantize="int8")
    files = ExportedModel.load(folder, trusted=True)
    found = files.manifest["quantized"]
    with torch.no_grad():
        expected = torch.stack(model(x))
    logits = files.logits(x)
    assert found["largest_difference"] == pytest.approx(
        np.abs(logits - expected.numpy()).max(), abs=1e-6
    )
    assert 1e-6 < found["largest_difference"] < 0.3 * (1 + float(expected.abs().max()))
    exits = policy.exit_index(expected).numpy()
    assert found["same_exits"] == np.mean(files.predict(x).exit_index == exits)
    assert found["same_labels"] == np.mean(logits[-1].argmax(-1) == expected[-1].argmax(-1).numpy())
    assert files.manifest["largest_difference"] < CLOSE  # of the files before
    stored = sum(file.stat().st_size for file in folder.glob("*.onnx"))
    assert stored < 128 * 128 * 4
    with pytest.raises(ValueError, match="quantize='int8' is for ONNX files: pass format=\"onnx\""):
        export(model, x, tmp_path / "no", format="torch", quantize="int8")
    with pytest.raises(ValueError, match="quantize must be"):
        export(model, x, tmp_path / "no", quantize="int4")


# --- models of transformers ----------------------------------------------------------------------

TINY = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20,
    "vocab_size": 50, "num_labels": 3, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "layers", "head", "form"),
    [("Bert", "bert.encoder.layer", "linear", "onnx"), ("Llama", "layers", "last-token", "torch")],
)
def test_masked_models_of_transformers(kind, layers, head, form, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**TINY)
    backbone = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    names = [f"{'model.' if kind == 'Llama' else ''}{layers}.{k}" for k in (0, 1)]
    x = transformers.BatchEncoding(text(4, 7, vocabulary=50))
    model = MultiExitModel.attach(backbone, names, num_classes=3, example=x, head=head)
    files = ExportedModel.load(
        export(model.eval(), x, tmp_path / "files", format=form), trusted=True
    )
    for batch, tokens in ((1, 9), (7, 12), (7, 7)):
        agrees(model, files, transformers.BatchEncoding(text(batch, tokens, vocabulary=50)))
