"""The commands of ``laplex cedar``. Importing this needs typer and rich, and nothing slow."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laplex._support.command_errors import (
    check_folder,
    result_folder,
    sentences,
    shows_progress,
    stoppable,
    usable_device,
)
from laplex._support.complete_files import check_writable, replacing
from laplex._support.options import with_options

from ..cedar.files import check_model, find_files, read_lines
from ..cedar.settings import Settings
from .cedar_inputs import DescribedModel, find_names, label, load_model, messages_about, open_rows

if TYPE_CHECKING:
    from ..cedar.estimator import CEDAR
    from ..cedar.rows import Rows

app = typer.Typer(
    name="cedar",
    help="Sparse codes for embeddings: learn a change of basis, name its axes, report on it.",
    no_args_is_help=True,
)

_EMBEDDINGS = (
    "Embeddings, one per row: .npy, .npz, .safetensors, .parquet, .h5, .zarr or .tar files, a "
    "folder of them, or a pattern such as 'shards/*.npy'. They are read in batches."
)


EmbeddingFiles = Annotated[
    list[Path], typer.Argument(metavar="EMBEDDINGS...", help=_EMBEDDINGS, show_default=False)
]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Folder of a model that `laplex cedar fit` wrote.")
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the tensor, array or column of lists to read, if there are several.",
    ),
]
Words = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Text file with the words that name the axes, one per line."),
]
TextEmbeddings = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of the embeddings of the words, in the space of the model, one per row.",
    ),
]
Items = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Text file that describes the embeddings, one line per row."),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of pictures, one for each row, in the order of their names."
    ),
]


@app.command()
@with_options(Settings, {"n_init": 3})
def fit(
    embeddings: EmbeddingFiles,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the model to.")],
    k: Annotated[
        list[int] | None,
        typer.Option(
            "-k",
            "--k",
            min=1,
            help="Number of nonzero entries of a code. Give several (-k 8 -k 32) to learn one "
            "basis for all of them. Default: 32.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the random starts.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="Device to compute on, such as cuda. Default: the CPU.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to save the state of the fit to as it runs."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint if the file exists.")
    ] = False,
    max_rows: Annotated[
        int | None,
        typer.Option(
            min=2, help="Largest number of rows, drawn at random, to learn from. Default: all."
        ),
    ] = None,
    key: Key = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show a progress bar.")] = False,
    **given: Any,
) -> None:
    """Learn a change of basis from embeddings."""
    with _sentences("fit"):
        files = find_files(embeddings)
        _distinct("--checkpoint", checkpoint, files)
        if resume and checkpoint is None:
            raise ValueError("--resume needs a file to continue from: add --checkpoint FILE")
        check_folder(out)

        from ..cedar.estimator import CEDAR

        rows = open_rows(files, key)
        ks = sorted(set(k or [32]))
        if ks[-1] > rows.dim:
            raise ValueError(
                f"-k {ks[-1]} is more than the {rows.dim} columns of {label(files)}: pass at most "
                "that number, and a much smaller one for a sparse code"
            )
        model = CEDAR(
            k=ks[0] if len(ks) == 1 else ks,
            random_state=seed,
            device=usable_device(device),
            **given,
        )
        with (
            result_folder(out),
            messages_about(label(files)),
            stoppable(lambda: _going_on(checkpoint)),
        ):
            model.fit(
                rows,
                progress=shows_progress(quiet),
                checkpoint=checkpoint,
                resume=resume,
                max_rows=max_rows,
            )
            model.set_params(device=None)  # the model may be used elsewhere
            model.save(out)
            summary = _summary(model, rows, out)
        typer.echo(summary)


@app.command()
def transform(
    model: Model,
    embeddings: EmbeddingFiles,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File to write the codes to: .parquet (lists of axes and values), .npz (a sparse "
            "CSR matrix of SciPy) or .npy (a dense array with all the zeros).",
        ),
    ],
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--k",
            min=1,
            help="Number of nonzero entries of a code. Default: that of the fit.",
        ),
    ] = None,
    key: Key = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show a progress bar.")] = False,
) -> None:
    """Write the signed sparse codes of embeddings.

    Memory does not grow with the number of rows, but for the entries of a .npz file.
    """
    with _sentences("transform"):
        if out.suffix.lower() not in (".parquet", ".npz", ".npy"):
            raise ValueError(
                f"--out {out} must end in .parquet or .npz (sparse) or .npy (dense, with all zeros)"
            )
        files = find_files(embeddings)
        _distinct("--out", out, files)
        check_model(model)
        check_writable(out)

        from ..cedar.code_files import write_codes

        cedar = load_model(model)
        rows = open_rows(files, key, "embeddings")
        if k is not None and k > cedar.n_features_in_:
            raise ValueError(
                f"-k {k} is more than the {cedar.n_features_in_} axes of the model: pass less"
            )
        with messages_about(label(files)):
            count = write_codes(cedar, rows, out, k, progress=shows_progress(quiet))
        typer.echo(f"{count:,} codes with at most {k or cedar.k_} nonzero entries: {out}")


@app.command()
def name(
    model: Model,
    words: Annotated[
        Path, typer.Option(metavar="FILE", help="Text file with the words, one per line.")
    ],
    text_embeddings: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File of the embeddings of the words, in the space of the model, one per row.",
        ),
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Smallest cosine that a name needs. Default: the cosine that 99 % of random "
            "directions do not reach with their best word."
        ),
    ] = None,
    all_axes: Annotated[
        bool,
        typer.Option("--all-axes", help="Also name the axes that other rows do not confirm."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file to write all names and scores to."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of axes to print.")] = 20,
    key: Key = None,
) -> None:
    """Name both ends of each axis by the nearest words."""
    with _sentences("name"):
        check_model(model)
        find_files(text_embeddings)
        listed = read_lines(words)
        if out is not None:
            check_writable(out)

        cedar = load_model(model)
        names = find_names(
            cedar, words, listed, text_embeddings, key=key, threshold=threshold, all_axes=all_axes
        )
        if out is not None:
            with replacing(out) as part:
                part.write_text(names.to_json() + "\n", encoding="utf-8")
        typer.echo(names.table(top))


@app.command()
def report(
    model: Model,
    embeddings: EmbeddingFiles,
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path(
        "cedar-report.html"
    ),
    words: Words = None,
    text_embeddings: TextEmbeddings = None,
    items: Items = None,
    images: Images = None,
    compare: Annotated[
        bool, typer.Option(help="Fit baselines to compare with; this takes one or more minutes.")
    ] = True,
    max_axes: Annotated[int, typer.Option(min=1, help="Number of axes to show.")] = 24,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "CEDAR report",
    key: Key = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show a progress bar.")] = False,
) -> None:
    """Write a report on a model as one HTML file."""
    with _sentences("report", "matplotlib"):
        given = DescribedModel(model, embeddings, words, text_embeddings, items, images, out)

        from ..cedar.html_report import report as write_report

        with given.opened(key) as about:
            write_report(
                **about,
                out=out,
                compare=compare,
                max_axes=max_axes,
                title=title,
                progress=shows_progress(quiet),
            )
        typer.echo(f"report: {out}")


@app.command()
def browse(
    model: Model,
    embeddings: EmbeddingFiles,
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path(
        "cedar-browser.html"
    ),
    words: Words = None,
    text_embeddings: TextEmbeddings = None,
    items: Items = None,
    images: Images = None,
    examples: Annotated[
        int, typer.Option(min=1, help="Number of example rows for each end of each axis.")
    ] = 9,
    thumbnail_size: Annotated[
        int, typer.Option(min=1, help="Longest side of a thumbnail in pixels.")
    ] = 64,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "CEDAR axes",
    key: Key = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show a progress bar.")] = False,
) -> None:
    """Write all axes of a model and the codes of rows as one HTML file to search and browse."""
    with _sentences("browse", "jinja2"):
        given = DescribedModel(model, embeddings, words, text_embeddings, items, images, out)

        from ..cedar.feature_browser import browse as write_browser

        with given.opened(key) as about:
            write_browser(
                **about,
                out=out,
                examples=examples,
                thumbnail_size=thumbnail_size,
                title=title,
                progress=shows_progress(quiet),
            )
        typer.echo(f"browser: {out}")


# --- inside ---------------------------------------------------------------------------------------


def _sentences(command: str, *more: str) -> AbstractContextManager[None]:
    needs = ("numpy", "torch", "sklearn", "scipy", "safetensors", *more)
    return sentences(f"laplex cedar {command}", extra="cedar", needs=needs)


def _distinct(option: str, path: Path | None, embeddings: list[Path]) -> None:
    """Raise an error if an output would replace the input."""
    if path is not None and path.resolve() in [one.resolve() for one in embeddings]:
        raise ValueError(f"{option} {path} would replace the embeddings: pass another name")


def _going_on(checkpoint: Path | None) -> str:
    """Return what to print after Ctrl-C."""
    if checkpoint is not None and checkpoint.exists():
        return f"continue with the same options and --checkpoint {checkpoint} --resume"
    return "nothing was written; with --checkpoint FILE you can continue a fit later"


def _summary(cedar: CEDAR, rows: Rows, out: Path) -> str:
    from ..cedar.coding import measured

    ks = (cedar.k,) if isinstance(cedar.k, int) else tuple(cedar.k)
    if len(ks) == 1:
        explained = {ks[0]: 1 - cedar.loss_curve_[-1]}
    else:  # the loss is the mean over all k
        fitted = cedar.fitted_
        placed = rows.placed(cedar.device, fitted.dtype)
        explained = {k: one.compute().fve for k, one in measured(fitted, placed, ks).items()}
    lines = [
        f"fraction of variance explained by {k} of {cedar.fitted_.axes} axes: {share:.4f} "
        "(training rows)"
        for k, share in explained.items()
    ]
    if cedar.confirmation_ is not None:
        lines.append(repr(cedar.confirmation_))
    elif len(cedar.bases_) == 1:
        lines.append(
            "one start: its axes may be accidents of the rows; --n-init 3 shows which of them "
            "other rows confirm"
        )
    return "\n".join([*lines, f"model: {out}"])
