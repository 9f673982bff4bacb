"""The report of the demo: one HTML file that needs neither network nor other files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

from laplex._support.html_pages import Table, render_page
from laplex._support.image_datasets import ImageDataset
from laplex.demo import figures
from laplex.demo.covariance import CovarianceStudy
from laplex.demo.exactness import Exactness
from laplex.demo.timing import Timing
from laplex.demo.training import LAPLEX, RANDOM_START, Comparison, Ranks, Settings
from laplex.nn import LaplexHead, LaplexLinear


def render(
    images: ImageDataset,
    exactness: Sequence[Exactness],
    timings: Sequence[Timing],
    settings: Settings,
    comparisons: Sequence[Comparison],
    ranks: Sequence[Ranks],
    covariances: CovarianceStudy,
    machine: str,
) -> str:
    """Return the report as HTML with embedded pictures.

    Parameters
    ----------
    images, exactness, timings, settings, comparisons, ranks, covariances
        The results; see the modules of the demo.
    machine : str
        One line about the processor and the versions.
    """
    by_name = {comparison.variant.name: comparison for comparison in comparisons}
    run = by_name[LAPLEX.name].runs[0]
    layers, starts = list(run.network), list(run.before)
    return render_page(
        __package__,
        "report.html",
        extra="demo",
        title=f"Laplex demo: {images.name}",
        machine=machine,
        exactness=Table(EXACTNESS_COLUMNS, exactness_rows(exactness)),
        timing=Table(TIMING_COLUMNS, timing_rows(timings)),
        scaling=figures.scaling(timings),
        task=task(images, settings),
        training=Table(TRAINING_COLUMNS, training_rows(comparisons)),
        findings=findings(comparisons),
        curves=figures.training_curves(comparisons),
        samples=figures.samples(images, run.network),
        ranks=Table(RANK_COLUMNS, rank_rows(ranks)),
        starts=starts_compared(by_name),
        kernel=figures.kernel(cast("LaplexLinear", layers[1])),
        anchors=figures.anchors(cast("LaplexLinear", starts[1]), cast("LaplexLinear", layers[1])),
        routing=figures.routing(cast("LaplexHead", layers[-1]), images.class_names),
        covariances=Table(COVARIANCE_COLUMNS, covariance_rows(covariances)),
        order=covariances.model.plot_order(images.train_images.shape[1:]),
        completions=figures.completions(covariances),
    )


# ------------------------------------------------------------------------- tables, as text cells

EXACTNESS_COLUMNS = ("form", "precision", "max error / Σ|K||v|", "promised", "")
TIMING_COLUMNS = ("n", "plan", "first", "update", "apply", "grads", "FFT", "dense", "matrix")
TIMING_NOTE = (
    "plan: building a plan; first: building a plan and multiplying; update: moving the anchors and "
    "multiplying; apply: multiplying again; grads: multiplying and computing all gradients; "
    "FFT: torch.fft.rfft of n values; dense: multiplying by the dense matrix; matrix: forming the "
    "dense matrix"
)
TRAINING_COLUMNS = ("layers", "accuracy, %", "±", "parameters", "CPU s")
COVARIANCE_COLUMNS = ("model", "parameters", "error, %", "neighbours, pixels", "PSNR, dB")
COVARIANCE_NOTE = (
    "error: relative squared error of the test images' covariances off the diagonal; neighbours: "
    "mean distance between a pixel and the four pixels most correlated with it; PSNR: of test "
    "images in which the model has filled in a missing half of the pixels"
)
RANK_COLUMNS = ("initial anchors", "layer", "full rank", "one kernel", "whole weight")


def exactness_rows(rows: Iterable[Exactness]) -> list[tuple[str, ...]]:
    """Return the cells of the table of errors."""
    return [
        (
            row.form,
            row.precision,
            f"{row.error:.1e}",
            f"{row.bound:.0e}",
            "ok" if row.passed else "FAILED",
        )
        for row in rows
    ]


def timing_rows(rows: Iterable[Timing]) -> list[tuple[str, ...]]:
    """Return the cells of the table of times, in milliseconds."""
    return [
        (
            f"{row.n:,}",
            *(
                "–" if seconds is None else f"{1e3 * seconds:.3g}"
                for seconds in (
                    row.sort,
                    row.new_forward,
                    row.moved_forward,
                    row.forward,
                    row.forward_backward,
                    row.fft,
                    row.dense,
                    row.dense_build,
                )
            ),
        )
        for row in rows
    ]


def training_rows(comparisons: Iterable[Comparison]) -> list[tuple[str, ...]]:
    """Return the cells of the table of networks."""
    return [
        (
            comparison.variant.name,
            f"{comparison.accuracy[0]:.2f}",
            f"{comparison.accuracy[1]:.2f}" if len(comparison.runs) > 1 else "–",
            f"{comparison.runs[0].parameters:,}",
            f"{comparison.seconds:.1f}",
        )
        for comparison in comparisons
    ]


def rank_rows(ranks: Iterable[Ranks]) -> list[tuple[str, ...]]:
    """Return the cells of the table of initial ranks."""
    return [
        (row.init, row.layer, str(row.full), f"{row.kernel:.0f}", str(row.weight)) for row in ranks
    ]


def covariance_rows(study: CovarianceStudy) -> list[tuple[str, ...]]:
    """Return the cells of the table of covariance models."""
    return [
        (
            fit.name,
            f"{fit.parameters:,}",
            f"{100 * fit.error:.1f}",
            f"{fit.distance:.2f}",
            f"{fit.psnr:.2f}",
        )
        for fit in study.fits
    ]


# ------------------------------------------------------------------------------------- sentences


def task(images: ImageDataset, settings: Settings) -> str:
    """Describe the data, the network and the training."""
    height, width = images.train_images.shape[1:]
    return (
        f"The data are {images.name}, with {len(images.train_labels):,} training images and "
        f"{len(images.test_labels):,} test images of {height} x {width} pixels. The network has "
        f"layers {height * width} - {settings.hidden} - {settings.hidden} - "
        f"{len(images.class_names)} with ReLU between them. Adam trains it for {settings.epochs} "
        f"epochs with {settings.seeds} seed{'s' if settings.seeds > 1 else ''}. Its three layers "
        f"are Laplace-kernel layers with {settings.heads} heads, low-rank layers with at least as "
        "many parameters, or ordinary dense layers. Each kind has its own learning rate, which "
        "was chosen on held-out training images."
    )


def findings(comparisons: Sequence[Comparison]) -> str:
    """Compare the kinds of layers by the numbers of this run."""
    by_kind = {comparison.variant.kind: comparison for comparison in reversed(comparisons)}
    laplex, low_rank, dense = by_kind["laplex"], by_kind["low-rank"], by_kind["dense"]
    sentences = [
        _against("Laplace-kernel layers", laplex, "low-rank layers of equal size", low_rank),
        _against("Laplace-kernel layers", laplex, "dense layers", dense),
    ]
    share = laplex.runs[0].parameters / dense.runs[0].parameters
    slower = laplex.seconds / dense.seconds
    sentences.append(
        f"The Laplace-kernel layers have {100 * share:.0f} % of the dense network's parameters. "
        + (
            f"Dense layers train {slower:.1f} times faster, because processors multiply very "
            "efficiently by matrices this small. The kernels become faster from some thousands of "
            "inputs on (section 2)."
            if slower > 1
            else f"Their training takes {slower:.2f} times as long as that of dense layers."
        )
    )
    return " ".join(sentences)


def starts_compared(by_name: dict[str, Comparison]) -> str:
    """Compare training with interlaced and with random initial anchors."""
    ours, theirs = by_name[LAPLEX.name], by_name[RANDOM_START.name]
    sentence = _against("Interlaced initial anchors", ours, "random initial anchors", theirs)
    interlaced, random = (
        sum(run.losses[0] for run in comparison.runs) / len(comparison.runs)
        for comparison in (ours, theirs)
    )
    return (
        f"{sentence} The training loss in the first epoch is {interlaced:.3f} with interlaced "
        f"anchors and {random:.3f} with random ones."
    )


def _against(what: str, ours: Comparison, name: str, theirs: Comparison) -> str:
    (mean, spread), (other, other_spread) = ours.accuracy, theirs.accuracy
    # Two standard errors of the difference; the seeds alone could explain a smaller difference.
    noise = 2 * math.sqrt(spread**2 / len(ours.runs) + other_spread**2 / len(theirs.runs))
    if len(ours.runs) == 1:
        return f"{what} reach {mean:.2f} % and {name} reach {other:.2f} % with one seed."
    numbers = f"({mean:.2f} % and {other:.2f} %)"
    if abs(mean - other) <= noise:
        return f"{what} and {name} differ by less than the noise of the seeds {numbers}."
    return f"{what} do {'better' if mean > other else 'worse'} than {name} {numbers}."
