"""The calls of `tools/same_bits.py`: a generator of cases for each area.

A case is a name, an expression that makes an object `A`, expressions to evaluate (separated by
semicolons; they may contain A), the order up to which to differentiate, and all other names used.
"""

# ruff: noqa: F401  (expressions use what is imported)
from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import gpytorch
import numpy as np
import torch
from gpytorch.kernels import ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor, func, nn
from torch.autograd import forward_ad
from torch.utils.data import DataLoader, TensorDataset

import laplex
from laplex import early_exit as ee
from laplex import gram
from laplex.cedar import CEDAR, baselines, metrics, name_axes, stability, top_examples
from laplex.early_exit import dynamics, networks

Names = dict[str, Any]
Cases = Iterator[tuple[str, str, str, int, Names]]
BOTH = (True, False)
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
#: The form of a kernel is which of these are given.
OPTIONS = ("frequency", "target_phase", "source_phase", "real_part")
FORMS = [form for count in range(5) for form in combinations(OPTIONS, count)]
#: Shapes of targets, sources (None: the self case), values and lengthscale.
SIZES: tuple[tuple[Any, ...], ...] = (
    ((64,), (48,), (48,), ()),
    ((64,), None, (64,), ()),
    ((3, 20), (3, 17), (17,), (3,)),
    ((3, 20), None, (5, 3, 20), (3,)),
    ((2, 1, 3, 20), (3, 17), (2, 5, 3, 17), ()),
    ((0,), (17,), (0, 17), ()),
    ((5,), (5000,), (9, 5000), ()),
    ((20000,), (4000,), (4000,), ()),
)
MATVEC = "laplex.matvec(**given); laplex.matvec(**given | {'lengthscale': 0.7})"
LAYOUTS = """values=two[:34].mT[:, None]; values=wide.mT[:, None]; values=wide[:, 0].conj();
values=wide[:, 0].conj().imag; values=two[0, 0].expand(34); values=two[:34, 0].sqrt();
targets=two.mT; targets=two.mT.round(); targets=normal(3, 80)[:, ::2];
sources=two[:34, 0].expand(3, 34); lengthscale=torch.tensor([0.5, 1.0, 2.0]); lengthscale=2"""
CALL = "lambda changed: laplex.matvec(**given | changed)"
TRANSFORMS = "dual(A, inputs); func.jvp(A, (inputs,), (tangents,)); func.vmap(A)(stacked)"
LOSS = """func.jvp(func.grad(A), (inputs,), (tangents,)); func.vmap(func.grad(A))(stacked);
[func.vmap(func.grad(A))({key: each}) for key, each in stacked.items()];
[func.grad(A)({key: each}) for key, each in inputs.items()]"""
COMPILED = """torch.compiler.reset() or torch.compile(laplex.matvec, backend='aot_eager',
fullgraph=True)(**given)"""
OPERATOR = """A @ v; A @ v[:, 0]; A.matvec(v.mT[:, None]); u.mT @ A; A.mT @ u; A.H @ (A @ v);
A.H.to_dense(); A.to(torch.float32) @ v.float(); A.to_linear_operator() @ v;
A.to_scipy() @ v.detach().numpy(); A.to_plan().apply(v.detach().mT[:, None].numpy()); np.asarray(A);
A.rank(); repr(A)"""
PLAN = """A.apply(v); A.apply(v, out=np.empty_like(A.apply(v))); A.transpose(A.apply(v));
A.half_sums(v); A.adjoint(A.apply(v)); A.vjp(v, A.apply(v)); pickle.loads(pickle.dumps(A)).apply(v);
A @ v[..., None]; A.apply(v.repeat(2, -1)[..., ::2]); A.apply(v.astype(v.dtype.newbyteorder()));
A.apply(v.real.astype(np.float16)); laplex.adapters.to_scipy(A) @ v.T; A.rank(); np.asarray(A);
A.matvec(v.T); A.apply(v)[..., None, :] @ A; (repr(A), A.nbytes);
[(A.update(*(x * 1.01 for x in u)), A.apply(v)), (A.update(*(-x for x in u)), A.apply(v))];
laplex.Plan(**given, num_threads=2).apply(v)"""
REFUSED = """targets=[0.0, 1.0]; targets=x.half(); targets=x.long(); targets=x * torch.nan;
sources=x.double(); values=v[:3]; values=v.double(); values=v.to_sparse(); values=v[0];
target_phase=x[:2]; real_part=1; lengthscale=torch.tensor(-1.0); lengthscale='long';
lengthscale=torch.tensor(2); source_phase=x.double(); targets=x[0]; lengthscale=10**400;
frequency=float('inf'); targets=torch.ones(2, 4), values=torch.ones(3, 4)"""
LAYER = """A(x); A(x[0, 0]); A.weight; A.to_linear()(x); A.state_dict(); A.rank(); A.head_norms();
repr(A); A.routing() if hasattr(A, 'routing') else None"""
SLOW = """torch.compiler.reset() or torch.compile(A, backend='aot_eager', fullgraph=True)(x);
torch.export.export(A, (x,)).module()(x);
[type(A).from_linear(nn.Linear(9, 6), phased=p, rounds=1).state_dict() for p in BOTH];
A.half()(x.half());
[each['weight_decay'] for each in laplex.nn.param_groups(A, weight_decay=0.1)]"""
GRAMS = """x, lengthscale=a, variance=b, noise=c; x.round(), lengthscale=a, noise=q;
x.detach().numpy(), lengthscale=2.0, noise=0.1; x, lengthscale=a;
x, lengthscale=a, variance=b, frequency=d, phase=p, scale=q, noise=q;
x, terms=[gram.Term(a, b), gram.Term(c, 0.5, d)], noise=c;
torch.stack([x, p]), lengthscale=torch.stack([a, c]), frequency=d, phase=p, noise=q"""
GRAM = """A.matvec(v); A.solve(v); A.color(v); A.color(v, transpose=True); A.whiten(v); A.logdet();
A.log_prob(v); A.whiten(v, transpose=True); A.sample((2,)); A.diagonal(); v[0] @ A; np.asarray(A);
(A + A * 0.5).to_dense(); repr(A); A.precision()[1]; A.predict(u, v).mean; A.predict(u, v).variance;
A.predict(u, v).sample((2,)); A.condition(torch.arange(7), v[..., :7]).mean;
A.to(torch.float32).logdet(); A.condition(torch.arange(7), v[..., :7]).variance;
A.to_scipy(inverse=True) @ v[0].detach().mT.numpy(); A.to_linear_operator().solve(v[0].mT);
A.to_linear_operator().add_jitter(0.1).logdet(); A.to_linear_operator() @ v[0].mT"""
REGRESSORS = "frequency=1.0; normalize_y=True, n_restarts=1, random_state=0; optimizer=None"
REGRESSOR = """A.log_marginal_likelihood_value_;
A.log_marginal_likelihood(A.theta_, eval_gradient=True);
A.predict(u, return_std=True, include_noise=True); A.predict(u, return_cov=True);
A.sample_y(u, n_samples=2); A.score(X, y)"""
KERNELS = """ScaleKernel(gram.LaplaceKernel()); ScaleKernel(gram.LaplaceKernel(oscillates=True));
gram.LaplaceSumKernel(ScaleKernel(gram.LaplaceKernel()), gram.LaplaceKernel(oscillates=True))"""
PROCESS = """ExactMarginalLogLikelihood(A.likelihood, A)(A(x), y); A.eval()(u).mean;
A.eval()(u).variance"""
COVARIANCE = """A.state_dict(); A.relative_error(x); A.sample(3); A.covariance(); A.noise;
A.neighbours(12, k=4); A.log_prob(x[:5]); A.inpaint(x[:3], torch.arange(30).reshape(6, 5) % 3 == 0);
A.denoise(x[:3], variance=0.5); A.fit(x, steps=1)"""
CEDARS = """k=[1, 2]; k=2, center='learned', n_init=3; k=2, solver='adam'; k=2, sparse_output=True;
k=2, solver='adam', parametrization='cayley', center='none'; k=2, transform='laplex', heads=2;
k=2, transform='invertible'"""
FITTED = """(A.components_, A.atoms_, A.mean_, A.loss_curve_, A.restarts_); A.transform(x);
A.score(x); A.inverse_transform(A.transform(x)); A.intervene(x[:5], {3: 2.0});
top_examples(A, x, n=3); torch.autograd.functional.jacobian(A.torch_module().encode, z);
name_axes(A, words, names).to_json(); name_axes(A, words, names, threshold=-1.0).table();
A.torch_module().decode(A.torch_module().encode(z));
[A.save(folder), CEDAR.load(folder).transform(x)][1]; A.partial_fit(x[:100]).components_;
A.fit(torch.from_numpy(x)).score(z);
A.fit(np.array_split(x, 5), checkpoint=folder + '/fit').components_"""
BASELINES = """PCA(random_state=0); PCA('leading'); FastICA(random_state=0, max_iter=30);
Varimax(random_state=0); Quartimax(random_state=0); RandomRotation(random_state=0)"""
BASELINE = "A.transform(x, 2); A.inverse_transform(A.transform(x, 2)); (A.atoms_, A.mean_)"
METRICS = """baselines.orthomax(x, 0.5); [each.name for each in baselines.all_baselines()];
laplex.cedar.chance_scores(words); metrics.fve(x, y); metrics.fve(x.astype(np.float32), y);
metrics.match(Q, R, signed=True); metrics.match(Q, R); metrics.mcc(Q, R);
metrics.mcc_of_codes(y, x); metrics.amari_distance(Q, R.T); metrics.code_bits(512, 16);
metrics.monosemanticity(y, x); stability([Q, R, Q]).recurring(2);
[r := metrics.Reconstruction(mean=x.mean(0)), r.update(x, y, x), r.merge(r).compute()][2];
CEDAR(k=2).partial_fit(x).partial_fit(y).components_;
metrics.zero_shot_agreement(x, y, Q[:3], labels); metrics.linear_probe_agreement(x, y, labels);
[(each.method, each.fve) for each in baselines.compare(x, 2, baselines=[baselines.PCA()]).rows]"""
NETWORKS = """small_resnet(width=4, seed=0), ['layer1'], head='conv';
small_resnet(width=4, seed=0), ['layer1', 'layer2'], head='laplex';
small_msdnet(width=2, growth=2, seed=0), ['blocks.0', 'blocks.1'], head='pooled';
small_vit(dim=16, depth=3, seed=0), ['blocks.0', 'blocks.1'], head='token';
small_mlp(784, seed=0), ['layers.0', 'layers.1'], head='mlp'"""
NETWORK = """A.state_dict(); sum(each.square().mean() for each in A(x)); A.eval()(x); A.replays;
repr(A); A.predict(x, ee.MaxSoftmax(0.12)); A.predict(x, ee.MaxSoftmax(0.0));
A.predict(x, ee.Margin(2.0, fallback='most_confident'));
dynamics.activation_rank(A, [(x, torch.arange(6))], spatial='positions'); ee.count_costs(A, x[:2]);
ee.count_costs(A, x[:2], convention='flops').table()"""
TINY = """ee.MultiExitModel.attach(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(),
nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), ['3', '5'], head='laplex',
num_classes=3, example=x)"""
TRAINING = """strategy='disjoint'; strategy='joint'; gradient_equilibrium=True;
strategy='mixed', early_stopping=ee.ExitStopping(patience=1); weights='sdn', detach=True;
weights=(0.2, 0.3, 0.5), label_smoothing=0.1;
distillation=ee.Distillation(0.5, 2.0), scheduler=None, weight_decay=0.0;
strategy=[ee.Phase('heads', 1), ee.Phase('all', 1, learning_rate=1e-3), ee.Phase('backbone', 1)]"""
LOOKING = """ee.collect(A.eval(), data);
ee.evaluate(A, data, validation=list(data), calibration='temperature');
[dynamics.gradient_share(A, data, average=each).to_dict() for each in ('gradients', 'norms')];
[dynamics.activation_rank(A, data, center=each).to_dict() for each in (True, False)];
[dynamics.mutual_information(A, data, estimator=e, dims=2).to_dict() for e in ('ksg', 'gaussian')];
dynamics.loss_landscape(A, data, points=(3, 3)); dynamics.filter_directions(A);
dynamics.mode_connectivity(A, A, data, points=3, train_loader=data); ee.analyze(A, data);
dynamics.ksg_information(x, x.sin()); dynamics.ksg_label_information(x, labels);
dynamics.gaussian_information(x, x.sin()); dynamics.gaussian_label_information(x, labels)"""
EXPORTED = """[ee.export(A.eval(), x[:3], file, format=form, policy=ee.MaxSoftmax(0.4)), None][1];
ee.ExportedModel.load(file).logits(x.numpy()); ee.ExportedModel.load(file).predict(x.numpy());
ee.ExportedModel.load(file).predict(x.numpy(), ee.Margin(0.2))"""
POLICIES = """ee.MaxSoftmax((0.6, 0.4), strict=True); ee.Entropy(0.9);
ee.Margin(0.3, fallback='most_confident'); ee.Patience(1);
ee.LearnedScore(ee.ScoreHeads().fit(logits, labels), 0.5);
ee.LearnedScore(ee.TemperatureScaling().fit(logits, labels), 0.5); 'max-softmax'; 'entropy';
'margin'; 'patience'"""
JUDGED = """ee.evaluate_outputs(test, costs, policy=A, validation=other);
ee.evaluate_outputs(test, costs, policy=A, validation=other, calibration='temperature');
ee.evaluate_outputs(test, costs, policy=A, validation=other, protocol='p1-test-sweep');
(A.scores(logits), A.exit_index(logits)) if isinstance(A, ee.Policy) else None"""
JUDGING = """ee.ece(sure, right); ee.ece(sure, right, bins=4); ee.smooth_ece(sure, right);
ee.eefp(sure, right); ee.failure_auroc(sure, right); ee.aurc(sure, right); ee.fpr95(sure, right);
ee.eaurc(sure, right); ee.augrc(sure, right);
ee.eefp_labels(right); ee.nll(logits, labels); ee.brier(logits, labels);
ee.reliability(sure, right); ee.futility_toy(500);
[h := ee.ScoreHeads('correct', by_class=True).fit(logits, labels), h.scores(logits)];
ee.TemperatureScaling().fit(logits, labels); A.table(); A.cuts_at(1.5); A.area;
ee.evaluate_outputs(test, costs, validation=other, calibration='eefp');
ee.compare({'one': [A, A], 'two': [A, A]}).table(); ee.compare({p: [A, ee.evaluate_outputs(test,
costs, policy=p, validation=other)] for p in ('entropy', 'margin')}).correlations()"""


def expressions(text: str) -> list[str]:
    return [" ".join(each.split()) for each in text.split(";") if each.strip()]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weights(result: Tensor) -> Tensor:
    """A fixed cotangent."""
    ramp = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).reshape(result.shape)
    return (ramp * (1 - 2j) if result.is_complex() else ramp).to(result.dtype)


def dual(call: Any, inputs: Names) -> Any:
    with forward_ad.dual_level():
        moving = {k: forward_ad.make_dual(v, weights(v)) for k, v in inputs.items()}
        return tuple(forward_ad.unpack_dual(call(moving)))


def arguments(form: tuple[str, ...], sizes: Any, dtype: torch.dtype = torch.float64) -> Names:
    """Arguments of `matvec`, with values of this dtype."""
    targets, sources, values, batch = sizes
    shapes = {"values": values, "targets": targets, "sources": sources, "lengthscale": batch}
    shapes |= zip(OPTIONS, (batch, targets, sources or targets), strict=False)
    real = torch.float32 if dtype in HALVES else dtype.to_real()
    found: Names = {"real_part": "real_part" in form}
    for seed, (name, shape) in enumerate(shapes.items()):
        if shape is not None and (name in form or name not in OPTIONS):
            found[name] = normal(*shape, seed=seed, dtype=dtype if name == "values" else real)
    return found | {"lengthscale": found["lengthscale"].exp()}


def matvec() -> Cases:
    for form, sizes, dtype in product(FORMS, SIZES, (*DTYPES, *HALVES)):
        given = arguments(form, sizes, dtype)
        yield f"{form}, {sizes}, {dtype}", "None", MATVEC, 1, {"given": given}
    two, wide = normal(40, 3), normal(34, 5, dtype=torch.complex128)
    for form, change in product(FORMS, expressions(LAYOUTS)):
        given = arguments(form, ((3, 40), (3, 34), (34,), (3,)))
        given |= eval(f"dict({change})", globals() | {"two": two, "wide": wide})
        yield f"{form}, {change}", "None", MATVEC, 1, {"given": given}
    for form, sizes, dtype in product(FORMS, (SIZES[2], ((9,), None, (9,), ())), DTYPES[1:3]):
        given, name = arguments(form, sizes, dtype), f"{form}, {sizes}, {dtype}, transformed"
        inputs = {k: v for k, v in given.items() if isinstance(v, Tensor)}
        names = {"given": given, "inputs": inputs}
        names["tangents"] = {k: weights(v) for k, v in inputs.items()}
        names["stacked"] = {k: torch.stack([v, 2 * v]) for k, v in inputs.items()}
        yield name, CALL, TRANSFORMS, 0, names
        yield f"{name}, loss", f"{CALL}.abs().square().sum()", LOSS, 0, names
        yield name, "None", "laplex.matvec(**given)", 3 if len(form) in (0, 4) else 2, names
        yield name, "None", COMPILED if len(form) in (0, 4) and sizes is SIZES[2] else "", 1, names


def operator() -> Cases:
    for form, own, batch in product(FORMS, BOTH, ((), (3,))):
        given = arguments(form, ((*batch, 12), None if own else (*batch, 9), (), batch))
        del given["values"]
        names = {"given": given, "v": normal(12 if own else 9, 4), "u": normal(12, 4, seed=9)}
        yield f"{form}, {own}, {batch}", "laplex.LaplaceOperator(**given)", OPERATOR, 1, names


def plan() -> Cases:
    for form, sizes, dtype in product(FORMS, SIZES, DTYPES):
        given = arguments(form, sizes, dtype)
        given |= {k: v.numpy() for k, v in given.items() if isinstance(v, Tensor)}
        u = [given[name] for name in ("targets", "sources") if name in given]
        names = {"v": given.pop("values"), "u": u, "given": given}
        yield f"{form}, {sizes}, {dtype}", "laplex.Plan(**given)", PLAN, 0, names


def refusals() -> Cases:
    x, v = torch.arange(4.0), torch.ones(4)
    for change in expressions(REFUSED):
        given = {"values": v, "targets": x} | eval(f"dict({change})", globals() | {"x": x, "v": v})
        yield f"matvec, {change}", "None", "laplex.matvec(**given)", 1, {"given": given}
        names = {"v": given.pop("values"), "given": given}
        yield f"operator, {change}", "laplex.LaplaceOperator(**given)", "A.matvec(v)", 0, names
        given = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in given.items()}
        yield f"plan, {change}", "laplex.Plan(**given)", "A.apply(v)", 0, names | {"given": given}


def layers() -> Cases:
    for kind, heads, phased, bias in product(("LaplexLinear", "LaplexHead"), (1, 3), BOTH, BOTH):
        make = f"laplex.nn.{kind}(13, 7, {bias}, heads={heads}, phased={phased}, "
        for init, dtype in product(("interlaced", "random"), (*DTYPES[:2], *HALVES)):
            full = f"{make}init='{init}', dtype={dtype})"
            yield full, full, LAYER, 2, {"x": normal(2, 5, 13).to(dtype)}
        yield make, f"{make})", SLOW * (bias and phased), 1, {"x": normal(2, 13).float()}


class Process(gpytorch.models.ExactGP):
    def __init__(self, x: Tensor, y: Tensor, kernel: Any) -> None:
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), kernel

    def forward(self, x: Tensor) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def grams() -> Cases:
    for make, n, dtype in product(expressions(GRAMS), (14, 1, 3000), DTYPES[:2]):
        shapes = (
            dict.fromkeys("xpq", (n,)) | dict.fromkeys("abcd", ()) | {"v": (2, 1, n), "u": (5,)}
        )
        names = {k: normal(*shape, seed=i) for i, (k, shape) in enumerate(shapes.items())}
        names = {k: (v.exp() if k in "abcq" else v).to(dtype) for k, v in names.items()}
        uses, orders = GRAM if n == 14 else "A.log_prob(v)", 1 if dtype is torch.float32 else 2
        yield f"{make}, {n}, {dtype}", f"gram.LaplaceGram({make})", uses, orders, names
    x, u = 3 * normal(60), normal(7, seed=2)
    y = x.sin() + 0.3 * normal(60, seed=1)
    names = {"X": x.numpy()[:, None], "y": y.numpy(), "u": u.numpy()[:, None]}
    for options in expressions(REGRESSORS):
        yield options, f"gram.LaplaceGPRegressor({options}).fit(X, y)", REGRESSOR, 0, names
    for kernel in expressions(KERNELS):
        make, names = f"Process(x, y, {kernel}).double()", {"x": x, "y": y, "u": u}
        yield kernel, make, PROCESS, 1, names
    names = {"x": normal(40, 6, 5).cumsum(-1).float()}
    fits = ("steps=1, likelihood_steps=1", "steps=1, batch_size=9, probes=2")
    for heads, phased, fit in product((1, 3), BOTH, fits):
        model = f"gram.LaplaceCovariance(30, heads={heads}, phased={phased})"
        yield f"{model}, {fit}", f"[m := {model}, m.fit(x, {fit})][0]", COVARIANCE, 1, names


def cedar() -> Cases:
    data = (normal(600, 12) * (normal(600, 12, seed=1) > 1)).numpy()
    Q, R = (np.linalg.qr(normal(12, 12, seed=seed).numpy())[0] for seed in (2, 3))
    x, labels = data @ Q + 0.1, (data[:, 0] > 0).astype(int) + (data[:, 1] > 0)
    words = normal(34, 12, seed=4).numpy()
    names = {"Q": Q, "R": R, "labels": labels, "words": words, "names": [f"{i}" for i in range(34)]}
    names |= {"x": x, "y": x + 0.1 * normal(600, 12, seed=5).numpy()}
    with tempfile.TemporaryDirectory() as folder:
        for options, kind in product(expressions(CEDARS), (np.float32, np.float64)):
            name = f"{options}, {kind.__name__}"
            some = {"x": x.astype(kind), "folder": f"{folder}/{name}"}
            some["z"] = torch.from_numpy(some["x"][:20])
            make = f"CEDAR(max_iter=12, random_state=0, {options}).fit(x)"
            yield name, make, FITTED, 0, names | some
    for make in expressions(BASELINES):
        yield make, f"baselines.{make}.fit(x)", BASELINE, 0, names
    yield "metrics", "None", METRICS, 0, names


def exits() -> Cases:
    x = normal(6, 1, 28, 28).float()
    for network in expressions(NETWORKS):
        make = f"ee.MultiExitModel.attach(networks.{network}, num_classes=10, example=x)"
        yield network, make, NETWORK, 1, {"x": x}
    x = normal(120, 6).float()
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    data = DataLoader(TensorDataset(x, labels), batch_size=16)
    names = {"x": x, "labels": labels, "data": data}
    yield "inside", TINY, LOOKING, 0, names
    for options in expressions(TRAINING):
        epochs = "None" if "Phase" in options else "2"
        use = f"ee.train(A, data, data, epochs={epochs}, {options}).table(), A.state_dict()"
        yield "training", TINY, use, 0, names
    with tempfile.TemporaryDirectory() as folder:
        for form in ("onnx", "torch"):
            yield form, TINY, EXPORTED, 0, names | {"form": form, "file": f"{folder}/{form}"}
    logits = (normal(3, 120, 3) + torch.eye(3)[labels]).float().numpy()
    truth, sure = labels.numpy(), np.exp(logits).max(-1) / np.exp(logits).sum(-1)
    names = {"logits": logits, "labels": truth, "right": logits.argmax(-1) == truth, "sure": sure}
    for name, half in (("test", slice(60)), ("other", slice(60, 120))):
        names[name] = ee.Outputs(logits[:, half], truth[half], ("0", "1", "output"))
    names["costs"] = [0.3, 0.6, 1.1]
    for policy in expressions(POLICIES):
        yield policy, policy, JUDGED, 0, names
    yield "judging", "ee.evaluate_outputs(test, costs, validation=other)", JUDGING, 0, names


AREAS = (matvec, operator, plan, refusals, layers, grams, cedar, exits)
