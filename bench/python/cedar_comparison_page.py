"""Write docs/measurements/cedar_comparison.md from the measurements of cedar_comparison.py."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cedar_comparison import NULLS, ROOT, SEEDS, K, Record, records
from laplex.cedar.baselines.equal_bits import bits_of
from machine import processor

FOLDER = ROOT / "docs" / "measurements"
WIDTH = {"planted": 64, "overcomplete": 64, "gaussian": 64, "norms": 64}
WIDTH |= {"images null": 128, "images": 128, "words": 384}

Values = Sequence[float | None]


class Results:
    """The lines of the results file."""

    def __init__(self) -> None:
        self.all = records()
        self.fits = [one for one in self.all if one["what"] == "fit"]
        # The order of the methods, whatever was run first.
        from cedar_peers import METHODS

        self.methods = [method.name for method in METHODS]

    def of(self, data: str, method: str, k: int) -> list[Record]:
        found = [
            one for one in self.fits if (one["data"], one["method"], one["k"]) == (data, method, k)
        ]
        return sorted(found, key=lambda one: one["seed"])

    def mean(self, data: str, method: str, k: int, what: str) -> float:
        known = [one[what] for one in self.of(data, method, k) if one[what] is not None]
        return float(np.mean(known))

    def cell(self, data: str, method: str, k: int, what: str, digits: int = 3) -> str:
        return spread([one.get(what) for one in self.of(data, method, k)], digits)

    def lines(self, data: str, k: int) -> list[str]:
        return [name for name in self.methods if self.of(data, name, k)]


def spread(values: Values, digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{np.mean(known):.{digits}f}"
    return text if len(known) < 2 else f"{text} ± {np.std(known, ddof=1):.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main_table(found: Results, data: str, k: int, columns: dict[str, tuple[str, int]]) -> str:
    """Return a table of the methods for one k, with the columns {heading: (field, digits)}."""
    budget = bits_of(WIDTH[data], k)
    head = ["k = " + str(k), "latents", "FVE", f"FVE at {budget:.0f} bits (entries)"]
    head += [*columns, "L0", "dead", "fit (s)", "code (ms a row)"]
    rows = []
    for name in found.lines(data, k):
        mine = found.of(data, name, k)
        seeds = "" if len(mine) == len(SEEDS) else f" ({len(mine)} of {len(SEEDS)} seeds)"
        bits = found.cell(data, name, k, "fve_bits")
        rows.append([
            name + seeds, str(mine[0]["axes"]), found.cell(data, name, k, "fve"),
            f"{bits} ({mine[0]['k_bits']})",
            *(found.cell(data, name, k, field, digits) for field, digits in columns.values()),
            f"{found.mean(data, name, k, 'l0'):.1f}", f"{found.mean(data, name, k, 'dead'):.0f}",
            f"{found.mean(data, name, k, 'seconds'):.1f}",
            f"{np.median([one['coding'] for one in mine if one['coding'] is not None]):.3f}",
        ])  # fmt: skip
    return table(head, rows)


def times(found: Results) -> str:
    """Return the held-out FVE of other training times."""
    rows = []
    for data in ("planted", "overcomplete", "images", "words"):
        for k in K[data]:
            ours = found.of(data, "CEDAR", k)
            for method in ("AbsTopK 1x", "AbsTopK 4x", "TopK 4x"):
                cells = []
                for budget in ("CEDAR's time", "4x the steps"):
                    mine = [
                        one
                        for one in found.all
                        if one["what"] == "budget"
                        and (one["data"], one["method"], one["k"], one["budget"])
                        == (data, method, k, budget)
                    ]
                    cells.append(spread([one["fve"] for one in mine]))
                if ours and cells[0] != "-":
                    rows.append([
                        f"{data}, k = {k}", method, found.cell(data, "CEDAR", k, "fve"), cells[0],
                        found.cell(data, method, k, "fve"), cells[1],
                    ])  # fmt: skip
    head = ["data", "method", "CEDAR", "in CEDAR's time", "in the budget", "4x the steps (1 seed)"]
    return table(head, rows)


def nulls(found: Results) -> str:
    """Return the held-out FVE on the nulls, at equal k and at equal bits."""
    head = ["FVE at equal k / equal bits", *(f"{data}, k = {K[data][0]}" for data in NULLS)]
    names = [name for name in found.methods if any(found.of(d, name, K[d][0]) for d in NULLS)]
    rows = []
    for name in names:
        cells = []
        for data in NULLS:
            both = [found.cell(data, name, K[data][0], field) for field in ("fve", "fve_bits")]
            cells.append("-" if both[0] == "-" else " / ".join(both))
        rows.append([name, *cells])
    return table(head, rows)


def densities(found: Results) -> str:
    rows = []
    for data in ("images", "words"):
        k = K[data][1]
        for name in found.lines(data, k):
            values = np.mean([one["density"] for one in found.of(data, name, k)], axis=0)
            rows.append([f"{data}, k = {k}", name, *(f"{value:.4f}" for value in values)])
    return table(["data", "method", "10 %", "median", "90 %", "largest"], rows)


def rotations(found: Results) -> str:
    rows = []
    for data in K:  # measured once
        mine = [one for one in found.all if one["what"] == "rotation" and one["data"] == data]
        if mine:
            rows.append([
                data, spread([one["criterion"] for one in mine], 2),
                spread([one["null"] for one in mine], 2),
                spread([one["null_max"] for one in mine], 2),
                f"{mine[0]['p']:.3f}",
            ])  # fmt: skip
    head = ["data", "varimax criterion", "of random directions", "their largest", "p"]
    return table(head, rows)


def rates(found: Results) -> str:
    tried: dict[tuple[str, str], dict[float, float]] = {}
    for one in found.all:
        if one["what"] == "tuning":
            tried.setdefault((one["method"], one["data"]), {})[one["rate"]] = one["fve"]
    methods = dict.fromkeys(method for method, _ in tried)
    sets = [data for data in K if data not in NULLS]
    rows = []
    for method in methods:
        cells = []
        for data in sets:
            mine = tried.get((method, data))
            best = max(mine, key=lambda rate: mine[rate]) if mine else None
            cells.append("-" if best is None else f"{best:g}")
        rows.append([method, *cells])
    return table(["rate chosen", *sets], rows)


# --- pictures -------------------------------------------------------------------------------------


def picture(found: Results, data: str, field: str, label: str) -> str:
    """Draw the FVE against the time of a fit and against another metric; return the file."""
    figure = Figure(figsize=(10.5, 4.2 if len(K[data]) == 1 else 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    markers, palette = "osD", matplotlib.colormaps["tab20"]
    colours = {}
    names = [name for name in found.methods if any(found.of(data, name, k) for k in K[data])]
    for i, name in enumerate(names):
        ours = name.startswith("CEDAR")
        colours[name] = palette(i)
        for j, k in enumerate(K[data]):
            mine = found.of(data, name, k)
            if not mine:
                continue
            height = [one["fve"] for one in mine]
            for panel, field_x in ((left, "seconds"), (right, field)):
                across = [one[field_x] for one in mine]
                panel.errorbar(
                    np.mean(across), np.mean(height), np.std(height),
                    np.std(across) if panel is right else None,
                    marker=markers[j], color=colours[name],
                    markersize=9 if ours else 6, markeredgecolor="black" if ours else None,
                    linestyle="none", label=name if j == 0 and panel is left else None,
                )  # fmt: skip
    left.set(xscale="log", xlabel="processor time of the fit (s)", ylabel="held-out FVE")
    right.set(xlabel=label)
    for panel in (left, right):
        panel.grid(alpha=0.3)
    if len(K[data]) > 1:
        shapes = ", ".join(
            f"{shape} k = {k}"
            for shape, k in zip(("circle", "square", "diamond"), K[data], strict=False)
        )
        figure.suptitle(f"{data}; {shapes}", fontsize="small")
    figure.legend(loc="outside right upper", fontsize="small")
    name = f"cedar_comparison_{data.replace(' ', '_')}.png"
    figure.savefig(FOLDER / name, dpi=100)
    return name


def nulls_picture(found: Results) -> str:
    """Draw the FVE of each method on the nulls, at equal k and at equal bits."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    for panel, data in zip(figure.subplots(1, 3), NULLS, strict=True):
        k = K[data][0]
        names = found.lines(data, k)
        for shift, field, label in ((0.15, "fve", "equal k"), (-0.15, "fve_bits", "equal bits")):
            values = [[one[field] for one in found.of(data, name, k)] for name in names]
            panel.errorbar(
                [np.mean(one) for one in values], np.arange(len(names)) + shift,
                xerr=[np.std(one) for one in values], fmt="o", markersize=4, label=label,
            )  # fmt: skip
        panel.set_yticks(range(len(names)), names, fontsize="x-small")
        panel.invert_yaxis()
        panel.set(title=data, xlabel="held-out FVE")
        panel.grid(alpha=0.3)
    panel.legend(fontsize="x-small")
    figure.savefig(FOLDER / "cedar_comparison_nulls.png", dpi=100)
    return "cedar_comparison_nulls.png"


# --- the page -------------------------------------------------------------------------------------

PLANTED = {"MCC": ("mcc", 3), "cosine of matched": ("matched", 3), "recall@10": ("recall", 3)}
REAL = {
    "recall@10": ("recall", 3),
    "probe, 1": ("probe1", 3),
    "probe, 5": ("probe5", 3),
    "AUROC": ("auroc", 3),
    "seeds agree": ("agreement", 2),
}


def page(found: Results) -> str:
    def v(data: str, method: str, k: int, what: str = "fve", digits: int = 3) -> str:
        return f"{found.mean(data, method, k, what):.{digits}f}".lstrip("0")

    def of_each(data: str, columns: dict[str, tuple[str, int]]) -> str:
        return "\n\n".join(main_table(found, data, k, columns) for k in K[data])

    def o(method: str, what: str = "fve") -> str:
        return v("overcomplete", method, 4, what)

    def w(method: str, k: int, what: str = "fve") -> str:
        return v("words", method, k, what)

    def i(method: str, k: int, what: str = "fve") -> str:
        return v("images", method, k, what)

    def g(method: str) -> str:
        return v("gaussian", method, 4)

    def n(method: str) -> str:
        return v("images null", method, 16)

    one = "probe1"
    minutes = sum(line.get("seconds", 0) for line in found.all) / 60
    return f"""\
# CEDAR beside its peers

[bench/python/cedar_comparison.py](../../bench/python/cedar_comparison.py) measured what this page
shows, and [cedar_comparison_page.py](../../bench/python/cedar_comparison_page.py) wrote it from
[the results](cedar_comparison.jsonl), one line for each fit. The fits took {minutes:.0f} minutes of
one thread of an {processor()}, which was shared and busy. Entries are means ± standard
deviations of five seeds, unless a line says otherwise; each seed has its own draw or split, and its
own start. CEDAR is our reading of the abstract of arXiv 2605.22679: no number here is the paper's.

## Limits first

* **Superposition.** With 128 causes in 64 columns, a rotation explains {o("CEDAR")} of the variance
  and has an MCC of {o("CEDAR", "mcc")} with the causes; TopK has {o("TopK 4x")} and
  {o("TopK 4x", "mcc")}, matching pursuit {o("matching pursuit 4x")} and
  {o("matching pursuit 4x", "mcc")}, scikit-learn's dictionaries {o("dictionary + OMP 4x")} and
  {o("dictionary + OMP 4x", "mcc")}. Where features are in superposition, the default CEDAR is the
  wrong model. `basis="frame"` has more axes than columns: {o("CEDAR, frame 2x")} and
  {o("CEDAR, frame 2x", "mcc")}. It is a kind of dictionary learning, and no longer a change of
  basis with a one-product code.
* **Few entries.** At small k the default loses on real embeddings too. Words at k = 8: CEDAR
  {w("CEDAR", 8)}, AbsTopK 1x {w("AbsTopK 1x", 8)}, TopK 4x {w("TopK 4x", 8)}, frame
  {w("CEDAR, frame 2x", 8)}. Words at k = 32: {w("CEDAR", 32)}, {w("AbsTopK 1x", 32)},
  {w("TopK 4x", 32)} and {w("CEDAR, frame 2x", 32)}. Pictures at k = 4: CEDAR
  {i("CEDAR", 4)}, AbsTopK 1x {i("AbsTopK 1x", 4)},
  matching pursuit {i("matching pursuit 4x", 4)}, frame {i("CEDAR, frame 2x", 4)}.
* **Equal time.** AbsTopK 1x, CEDAR without orthogonality, took less time than CEDAR in the
  tables of words. Trained for as long as CEDAR took, it explains more of the words
  at k = 8 and 32, and as much at k = 64 ([equal time](#equal-time)).
* **Concepts.** No learned dictionary is clearly better than principal components at telling
  WordNet's kinds of nouns apart by one latent: leading components {w("PCA, leading k", 32, one)} at
  k = 32, CEDAR {w("CEDAR", 32, one)}, CEDAR for all k {w("CEDAR, all k at once", 32, one)}.
* **Stability.** Two seeds and splits agree less on the axes of the default
  ({w("CEDAR", 32, "agreement")} on words at k = 32) than on those of ICA
  ({w("ICA Lens, our reading", 32, "agreement")}).

What speaks for the default CEDAR: of the methods whose codes take one product, it is best on words
at k = 64 in the budget of steps ({w("CEDAR", 64)}, for all k at once
{w("CEDAR, all k at once", 64)}; AbsTopK 1x {w("AbsTopK 1x", 64)},
TopK 4x {w("TopK 4x", 64)}; but the frame, by pursuit, {w("CEDAR, frame 2x", 64)}),
and keeps most neighbours at k = 32 and 64
({w("CEDAR", 32, "recall")} and {w("CEDAR", 64, "recall")}). Its single axes tell
classes of pictures apart better than those of most methods ({i("CEDAR", 16, "auroc")} AUROC at
k = 16; Matryoshka {i("Matryoshka 4x", 16, "auroc")}, AbsTopK 4x {i("AbsTopK 4x", 16, "auroc")}). It
needs no rate and no choice of steps, its inverse is exact, and it keeps distances.

What flatters CEDAR here: the budget of steps is small, and autoencoders gain from more
([equal time](#equal-time)); there are at most 20,000 rows, where a rotation has fewer parameters to
overfit; synthetic causes are signed, for which all but AbsTopK need two latents; and latents that
fire rarely cannot tell a whole class from the others, which lowers the AUROC of the larger
dictionaries. What flatters the peers: four times as many latents; three trials of the rate; and
BatchTopK and Matryoshka take up to a quarter more entries than k on held-out rows (column L0),
because their threshold comes from training rows.

## What is compared

* **CEDAR**: the default rotation by procrustes; one rotation for all k at once; any invertible
  matrix, by adam. Codes are signed, and there are as many axes as columns.
* **Sparse autoencoders, by SAELens 6.54** with its own trainer and conventions (rows scaled to
  norm sqrt(d), decoder rows of norm 0.1, warm-up, auxiliary losses): TopK, BatchTopK, Matryoshka
  BatchTopK, JumpReLU, matching pursuit, and AbsTopK, whose codes are signed. "4x" have four times
  as many latents as columns, "1x" as many. *AbsTopK 1x* is CEDAR without orthogonality; *AbsTopK
  1x, tied* shares the encoder with the decoder, so it is CEDAR but for orthogonality and the
  solver. With a *random decoder*, only the encoder is trained.
* **Dictionary learning** by scikit-learn's `MiniBatchDictionaryLearning`, with codes by orthogonal
  matching pursuit, also 4x; not on words, where one fit would take minutes.
* **ICA Lens**, our reading of the abstract of arXiv 2606.11722: FastICA on rows of length 1,
  without the directions of least variance. The recipe of the paper is not in its abstract.
* **Floors**: a random rotation, and principal components, with the leading k or the k largest of a
  row.

All get the same centred rows. *One budget*: an autoencoder trains for 600 steps of 512 rows
(synthetic rows), 400 of 256 (pictures), 300 of 256 (words). Each method with a rate gets three
trials of it, on a seed that is in no table ([rates](#rates)); the tied autoencoder got four. CEDAR
with procrustes has no rate and got one. Everything is fitted anew for each k, except for what does
not depend on k. The nulls have two seeds, and take the rates of the data that they resemble.

*Equal bits* gives a code as many entries as fit into the bits of a CEDAR code: an entry chosen
among more latents costs more. BatchTopK, Matryoshka and JumpReLU choose a different number of
entries for each row: one threshold, set on training rows, makes it k on average. *Time* is
processor time.

* *FVE*: fraction of variance explained on held-out rows. *Dead*: latents that no held-out row uses.
* *MCC*: mean cosine of the true atoms with the latents matched to them (Hungarian). A true atom
  without a match counts as 0, so 64 axes reach at most .5 with 128 causes; *cosine of matched*
  leaves those out.
* *recall@10*: of the ten nearest neighbours of a dense query, the fraction that a search among the
  codes finds.
* *probe, 1 and 5*: balanced accuracy of a logistic regression on the one or five latents that
  differ most between a concept and the others (arXiv 2305.01610, 2502.16681). *AUROC*: of the best
  end of a single latent, chosen on training rows. Means over the concepts.
* *seeds agree*: mean cosine of the latents in use with the matched ones of another seed and split.

Absorption (arXiv 2409.14507) is missing. Our reading of it for the first letters of words, how
often another latent takes over from the three latents of a letter, gave .54 for a random rotation
at k = 8, and followed the number of latents that fire rather than the method.

## Planted axes, as many as columns

Each of 20,000 rows of 64 columns mixes 4 of 64 orthogonal atoms with signed normal coefficients.

{of_each("planted", PLANTED)}

![Variance explained, time and MCC on planted axes](cedar_comparison_planted.png)

This is CEDAR's own model, and the result flatters it. ICA solves it too, and so do the
autoencoders.

## Superposition: more causes than columns

128 atoms of length 1 in random directions, in 64 dimensions; 4 in each row, with signed normal
coefficients.

{of_each("overcomplete", PLANTED)}

![Variance explained, time and MCC in superposition](cedar_comparison_overcomplete.png)

A rotation or any other square matrix has too few axes, whoever learns it: AbsTopK 1x and ICA stop
where CEDAR does, give or take a tenth. Four times as many latents find the causes. Pursuit, which
chooses one latent after the other, then also codes them well; the one-product encoders of the other
autoencoders lose 7 to 20 % by interference. The frame does best, with half as many latents as the
others; the code takes longer. At equal bits it keeps 3 entries of 4 causes, so it cannot reach 1.

## Pictures

EfficientNet-Lite0's features of 3,000 pictures of Fashion-MNIST, which the network was not trained
on, reduced to their first 128 principal components; 2,400 rows for training. The concepts are the
ten classes.

{of_each("images", REAL)}

![Variance explained, time and probes on pictures](cedar_comparison_images.png)

Orthogonality costs reconstruction: AbsTopK 1x, with as many latents, explains more, most of all at
k = 4, and so does the tied one. It buys axes that tell classes apart, which the invertible CEDAR
and AbsTopK 1x do less well at k = 4, and the frame and pursuit not at all well: the better a method
reconstructs with few entries, the less its single latents say about a class. Matryoshka has both at
k = 16. JumpReLU is far from its best: its thresholds need more steps than the budget has.

## Words

all-MiniLM-L6-v2 of the 10,000 most frequent English words, 384 columns; 8,000 rows for training.
The concepts are WordNet's kinds of concrete nouns, such as animals, for the words that are one.

{of_each("words", REAL)}

![Variance explained, time and retrieval on words](cedar_comparison_words.png)

The frame and matching pursuit are far ahead where they were fitted, and take longest to code.
Among the others the order depends on k: at k = 8 everything overcomplete is ahead of CEDAR, at
k = 32 they are within a few points, and at k = 64 CEDAR leads. The CEDAR for all k at once loses
little at k = 8, gains elsewhere, and has the better probes: of the rotations here it is the one to
start with. Single latents of the frame and of pursuit tell the kinds of nouns apart worst.
AbsTopK 1x is CEDAR without orthogonality: better at k = 8, worse at k = 64 in this
budget; with the time that CEDAR takes it is better or equal everywhere. The tied
autoencoder did not converge within 300 steps. ICA holds up well, and of the learned axes its agree
best between seeds; for all methods that agreement is far from 1.

## Nulls

Rows in which there is nothing to find: "gaussian" is isotropic; "norms" has the norms of the
planted rows in random directions; "images null" has the covariance and the whitened norms of the
pictures. What a dictionary with more latents explains here beyond a random rotation, it owes to its
size.

{nulls(found)}

![Variance explained on rows without structure](cedar_comparison_nulls.png)

No square basis gains anything on isotropic rows beyond {g("random rotation")}, that of a random
rotation, whatever the norms. Overcomplete dictionaries do gain at equal k, up to
{g("CEDAR, frame 2x")} for the frame and {g("dictionary + OMP 4x")} for dictionary learning: more
atoms to choose from, and a pursuit, fit any row better. With
the covariance of pictures, principal components are the best square basis
({n("PCA, per-row top k")}), as they should be; the frame ({n("CEDAR, frame 2x")}) and dictionary
learning ({n("dictionary + OMP 4x")}) still gain. On the pictures themselves these three have
{i("PCA, per-row top k", 16)}, {i("CEDAR, frame 2x", 16)} and {i("dictionary + OMP 4x", 16)}: 40 to
50 % of the gain over principal components is owed to size and pursuit, not to structure.

## Equal time

The autoencoders once more, for as long as CEDAR took on the same rows, and for four times their
budget.

{times(found)}

Measured with one seed. On words, AbsTopK 1x got two to three times its budget in this way, and is
then ahead of the rotation at k = 8 and 32 and level at k = 64: orthogonality costs variance, and
CEDAR's lead at k = 64 is one of the budget. In superposition, the larger autoencoders are far ahead
in any time.

## How often latents fire

Quantiles over the latents of the fraction of held-out rows in which each is not 0.

{densities(found)}

## Is there anything to rotate to?

A test of the data, without any of the methods: our reading of arXiv 2506.13831. The varimax
criterion of the 20 largest whitened principal components of 2,000 rows, beside 39 draws of rows
with the same norms in random directions; p is at least 1/40.

{rotations(found)}

Planted axes, pictures and words have structure that a rotation can find; the nulls show none.

## Rates

The learning rate of the best trial, of 0.002, 0.006 and 0.02 (tied: 0.0007 too; invertible CEDAR:
0.003, 0.01 and 0.03); for dictionary learning, the weight of the penalty, of 0.03, 0.1 and 0.3.

{rates(found)}
"""


def wrapped(page: str) -> str:
    """Wrap paragraphs and the items of lists, in which numbers now have their length."""
    blocks = []
    for block in page.split("\n\n"):
        if block.startswith(("|", "#", "!")):
            blocks.append(block)
            continue
        items = block.replace("\n  ", " ").split("\n* ") if block.startswith("* ") else [block]
        filled = [
            textwrap.fill(
                " ".join((("* " if i else "") + item).split()), 100,
                subsequent_indent="  " if block.startswith("* ") else "",
                break_long_words=False, break_on_hyphens=False,
            )
            for i, item in enumerate(items)
        ]  # fmt: skip
        blocks.append("\n".join(filled))
    return "\n\n".join(blocks).strip() + "\n"


def main() -> None:
    found = Results()
    picture(found, "planted", "mcc", "MCC with the true atoms")
    picture(found, "overcomplete", "mcc", "MCC with the true atoms")
    picture(found, "images", "probe5", "balanced accuracy of probes on five latents")
    picture(found, "words", "recall", "recall of ten neighbours among the codes")
    nulls_picture(found)
    (FOLDER / "cedar_comparison.md").write_text(wrapped(page(found)))


if __name__ == "__main__":
    main()
