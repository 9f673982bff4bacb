"""Layers in exported models: ONNX as a dense product, torch.export with the operator."""

import warnings

import pytest
import torch
from torch import nn

from laplex.nn import LaplexHead, LaplexLinear, kernel_layer

#: Float32 outputs of size about 1: the file's dense product and ours each round some hundred terms.
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network():
    return nn.Sequential(
        LaplexLinear(40, 24, heads=2), nn.ReLU(), LaplexHead(24, 5, heads=2, phased=False)
    ).eval()


def export_onnx(model, path, dynamo):
    v = torch.randn(3, 40)
    sizes = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        if dynamo
        else {"dynamic_axes": {"input": {0: "batch"}}}
    )
    with warnings.catch_warnings():  # torch's own, about itself
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (v,), path, dynamo=dynamo, input_names=["input"], verbose=False, **sizes
        )


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_computes_the_same_for_any_batch(dynamo, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    model, path = network(), tmp_path / "model.onnx"
    export_onnx(model, path, dynamo)
    onnx.checker.check_model(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    for batch in (1, 3, 17):
        v = torch.randn(batch, 40)
        (found,) = session.run(None, {session.get_inputs()[0].name: v.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), model(v).detach(), rtol=CLOSE, atol=CLOSE
        )


def test_a_matrix_too_large_for_onnx_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(kernel_layer, "MAX_DENSE_ENTRIES", 100)
    # The exporter wraps our sentence into its own.
    with pytest.raises(Exception, match="the dense weight would have 24 x 40 entries"):
        export_onnx(network(), tmp_path / "model.onnx", True)


def test_torch_export_keeps_the_operator(tmp_path):
    model = network()
    v = torch.randn(3, 40)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (v,), dynamic_shapes=(batch,))
    targets = {str(node.target) for node in program.graph.nodes}
    assert any("laplex.matvec" in target for target in targets)
    w = torch.randn(8, 40)
    torch.testing.assert_close(program.module()(w), model(w))
