"""Adapters in whole models: PEFT's interface on tiny networks with random weights."""

import copy
import json

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft")
import transformers  # noqa: E402  (peft requires it)
from safetensors.torch import load_file  # noqa: E402

from laplex.nn import LaplexLinear, param_groups  # noqa: E402
from laplex.peft import LaplexConfig, LaplexLayer, LaplexModel  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("seeded", "one_thread"),
    # peft 0.21 still asks transformers 5 for it.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def perceptron():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


def bert():
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=10, num_labels=3,
        initializer_range=0.5,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


def gpt2():
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=10, bos_token_id=0,
        eos_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


TOKENS = torch.tensor([[1, 5, 7, 2], [3, 3, 8, 9], [4, 6, 2, 1]])
CASES = {
    "perceptron": (perceptron, {"target_modules": ["0", "2"]}, torch.linspace(-1, 1, 24)),
    "BERT": (bert, {"task_type": "SEQ_CLS"}, TOKENS),
    "GPT-2": (gpt2, {"target_modules": ["c_attn", "c_proj"]}, TOKENS),
}


@pytest.fixture(params=CASES)
def case(request):
    make, arguments, inputs = CASES[request.param]
    return make, arguments, inputs.reshape(3, 8) if inputs.is_floating_point() else inputs


def output(model, inputs, **arguments):
    with torch.no_grad():
        result = model(inputs, **arguments)
    return result if isinstance(result, torch.Tensor) else result.logits


def moved(model, name="default"):
    """Give an adapter values that training might give it."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f"laplex_kernels.{name}." in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif f"laplex_amplitude.{name}" in key:
                parameter.fill_(0.5)
    return model


def layers(model):
    return [each for each in model.modules() if isinstance(each, LaplexLayer)]


def close(one, other):
    """Equal up to the roundings of some layers of a network whose values are about 1."""
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# --- a life of an adapter -------------------------------------------------------------------------


def test_inject_save_load_merge_and_unload(case, tmp_path):
    make, arguments, inputs = case
    plain = output(make(), inputs)
    model = peft.get_peft_model(make(), LaplexConfig(heads=2, **arguments)).eval()
    assert isinstance(model.base_model, LaplexModel)
    assert torch.equal(output(model, inputs), plain)
    adapted = output(moved(model), inputs)
    assert (adapted - plain).abs().max() > 0.01

    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LAPLEX"
    assert all("default" not in key for key in stored)
    kernels = {key.rpartition(".")[2] for key in stored if "laplex_kernels" in key}
    assert kernels == {name for name, _ in LaplexLinear(2, 2, bias=False).named_parameters()}
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, LaplexConfig)
    assert config.heads == 2
    for low in (False, True):
        loaded = peft.PeftModel.from_pretrained(make(), tmp_path, low_cpu_mem_usage=low).eval()
        assert torch.equal(output(loaded, inputs), adapted)

    frozen = [each.weight.detach().clone() for each in layers(model)]
    model.merge_adapter(safe_merge=True)
    close(output(model, inputs), adapted)
    model.unmerge_adapter()
    for layer, before in zip(layers(model), frozen, strict=True):
        # Two roundings of numbers below 4.
        torch.testing.assert_close(layer.weight, before, rtol=0, atol=8 * 2.0**-23)
    with model.disable_adapter():
        close(output(model, inputs), plain)
    merged = model.merge_and_unload()
    assert not layers(merged)
    assert type(merged) is type(make())
    close(output(merged, inputs), adapted)


def test_several_adapters(case, tmp_path):
    make, arguments, inputs = case
    arguments = {k: v for k, v in arguments.items() if k != "task_type"}  # a classifier for each
    model = peft.get_peft_model(make(), LaplexConfig(**arguments)).eval()
    model.add_adapter("other", LaplexConfig(heads=3, phased=False, **arguments))
    moved(moved(model), "other")
    default = output(model, inputs)
    model.set_adapter("other")
    other = output(model, inputs)
    assert not torch.allclose(default, other, atol=1e-3)
    for key, parameter in model.named_parameters():
        if "laplex_" in key:
            assert parameter.requires_grad == (".other" in key)

    model.base_model.set_adapter(["default", "other"])
    both = output(model, inputs)
    model.merge_adapter()
    close(output(model, inputs), both)
    model.unmerge_adapter()
    model.set_adapter("default")
    close(output(model, inputs), default)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make(), tmp_path).eval()
    loaded.load_adapter(tmp_path / "other", adapter_name="second")
    loaded.set_adapter("second")
    close(output(loaded, inputs), other)

    model.delete_adapter("other")
    close(output(model, inputs), default)
    assert all("other" not in key for key in model.state_dict())


def test_a_batch_of_several_adapters(case):
    make, arguments, inputs = case
    model = peft.get_peft_model(make(), LaplexConfig(**arguments)).eval()
    model.add_adapter("other", LaplexConfig(**arguments))
    moved(moved(model), "other")
    alone = {"default": output(model, inputs)}
    model.set_adapter("other")
    alone["other"] = output(model, inputs)
    alone["__base__"] = output(make(), inputs)
    names = ["other", "__base__", "default"]
    mixed = output(model, inputs, adapter_names=names)
    for row, name in enumerate(names):
        close(mixed[row], alone[name][row])
    close(output(model, inputs), alone["other"])  # the hooks are gone

    with pytest.raises(ValueError, match="one name for each of the 3 elements"):
        output(model, inputs, adapter_names=names[:2])
    with pytest.raises(ValueError, match=r"has \['third'\], but the adapters are"):
        output(model, inputs, adapter_names=["third", "other", "other"])
    model.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        output(model, inputs, adapter_names=names)
    model.unmerge_adapter()
    with pytest.raises(ValueError, match=r"call model\.eval"):
        output(model.train(), inputs, adapter_names=names)


def test_training_changes_the_adapter_alone():
    model = peft.get_peft_model(perceptron(), LaplexConfig(target_modules=["0"]))
    inputs, wanted = torch.randn(16, 8), torch.randn(16, 4)
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW(param_groups(model, 0.01), lr=0.03)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (model(inputs) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != ("laplex_" in key)


# --- which modules --------------------------------------------------------------------------------


def names(model):
    return [
        name.removeprefix("base_model.model.")
        for name, each in model.named_modules()
        if isinstance(each, LaplexLayer)
    ]


def test_the_modules_that_are_adapted():
    def adapted(**arguments):
        return names(peft.get_peft_model(bert(), LaplexConfig(**arguments)))

    attention = "bert.encoder.layer.{}.attention.self.{}"
    usual = [attention.format(i, name) for i in (0, 1) for name in ("query", "value")]
    assert adapted() == usual  # as LoRA
    assert adapted(target_modules=["query"], layers_to_transform=[1]) == [usual[2]]
    assert adapted(target_modules=r".*\.1\.attention\.self\.value") == [usual[3]]
    assert adapted(target_modules=["query"], exclude_modules=[usual[0]]) == [usual[2]]
    every = adapted(target_modules="all-linear", task_type="SEQ_CLS")
    assert len(every) == 2 * 6 + 1  # with the pooler; the classifier is trained instead


def test_heads_of_single_modules():
    pattern = {"layer.1.attention.self.query": 4}
    model = peft.get_peft_model(bert(), LaplexConfig(heads=2, heads_pattern=pattern))
    assert [each.laplex_kernels["default"].heads for each in layers(model)] == [2, 2, 4, 2]


def test_other_modules_and_biases_are_trained_and_saved(tmp_path):
    arguments = {"modules_to_save": ["classifier"], "bias": "laplex_only"}
    model = moved(peft.get_peft_model(bert(), LaplexConfig(**arguments))).eval()
    trained = {key for key, each in model.named_parameters() if each.requires_grad}
    assert {key for key in trained if "laplex_" not in key} == {
        *(f"base_model.model.{name}.base_layer.bias" for name in names(model)),
        "base_model.model.classifier.modules_to_save.default.weight",
        "base_model.model.classifier.modules_to_save.default.bias",
    }
    with torch.no_grad():
        for key in sorted(trained):
            model.get_parameter(key).add_(0.1)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(bert(), tmp_path).eval()
    assert torch.equal(output(loaded, TOKENS), output(model, TOKENS))


@pytest.mark.parametrize("autocast", [True, False])
def test_a_model_of_half_precision(autocast, tmp_path):
    model = peft.get_peft_model(
        bert().bfloat16(), LaplexConfig(), autocast_adapter_dtype=autocast
    ).eval()
    kernels = layers(moved(model))[0].laplex_kernels["default"]
    assert kernels.targets.dtype == torch.float32
    assert kernels.source_gain.dtype == (torch.float32 if autocast else torch.bfloat16)
    adapted = output(model, TOKENS)
    assert adapted.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(
        bert().bfloat16(), tmp_path, autocast_adapter_dtype=autocast
    ).eval()
    assert torch.equal(output(loaded, TOKENS), adapted)


def test_copies_and_parameters_in_the_printed_model(capsys):
    model = moved(peft.get_peft_model(perceptron(), LaplexConfig(target_modules=["0"])))
    inputs = torch.randn(2, 8)
    assert torch.equal(output(copy.deepcopy(model), inputs), output(model, inputs))
    assert "laplex.LaplexLayer(" in repr(model)
    model.print_trainable_parameters()
    count = 2 * 6 + 3 * 8 + 1 + 1
    assert f"trainable params: {count} " in capsys.readouterr().out


def test_names_of_heads_pattern_that_match_nothing_are_told():
    with pytest.warns(UserWarning, match=r"heads_pattern: \['typo'\]"):
        peft.get_peft_model(
            perceptron(), LaplexConfig(target_modules=["0"], heads_pattern={"typo": 5, "0": 2})
        )


def test_the_fast_path_of_transformer_layers_is_told():
    def network():
        return nn.Sequential(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True))

    with pytest.warns(UserWarning, match="fast path"):
        peft.get_peft_model(network(), LaplexConfig(target_modules=["linear1"]))
    with pytest.raises(TypeError, match="out_proj"):
        peft.get_peft_model(network(), LaplexConfig(target_modules=["out_proj"]))


def test_weighted_sums_are_refused_with_the_remedy():
    model = peft.get_peft_model(perceptron(), LaplexConfig(target_modules=["0"]))
    with pytest.raises(NotImplementedError, match="set_adapter"):
        model.add_weighted_adapter(["default"], [1.0], "sum")


def test_fsdp_takes_an_adapted_model(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = moved(peft.get_peft_model(perceptron(), LaplexConfig(target_modules=["0", "2"])))
    inputs = torch.randn(3, 8)
    before = model(inputs)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        assert torch.equal(model(inputs), before)
    finally:
        torch.distributed.destroy_process_group()
