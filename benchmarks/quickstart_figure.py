"""The README's figure: validation accuracy of the quickstart's small CNN, with and without the teacher.

    make quickstart
    python -m benchmarks.quickstart_figure     writes docs/images/quickstart.png; needs matplotlib

A line is the mean over the three seeds, a band from the lowest to the highest of them.
"""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot

from benchmarks import REPOSITORY
from model.config.folder import Folder
from model.errors import UserError

QUICKSTART = REPOSITORY / "experiments" / "quickstart"
FIGURE = REPOSITORY / "docs" / "images" / "quickstart.png"
ARMS = {  # runs by the pattern of their folders, label, colour
    "loss_kd_*": ("distilled from the CNN with 64 channels", "#0072b2"),
    "loss_ce_*": ("from the labels alone", "#d55e00"),
}


def accuracies(pattern: str) -> np.ndarray:
    """Validation accuracy in percent: (runs, epochs)."""
    histories = [Folder(path).read_history() for path in sorted((QUICKSTART / "student").glob(pattern))]
    if not histories or not all(histories):
        raise UserError(f"{QUICKSTART}/student/{pattern}: no finished runs; make quickstart")
    return 100 * np.array([[row["val_accuracy"] for row in history] for history in histories])


def main() -> None:
    figure, axes = pyplot.subplots(figsize=(7, 3.6), dpi=110, layout="constrained")
    for pattern, (label, colour) in ARMS.items():
        values = accuracies(pattern)
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(epochs, values.mean(axis=0), color=colour, label=label, linewidth=2)
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    teacher = Folder(QUICKSTART / "teacher").read_history()
    best = max(100 * row["val_accuracy"] for row in teacher)
    axes.axhline(best, color="#555555", linestyle=":", linewidth=1.2)
    axes.text(
        1.2, best + 0.7, f"the CNN with 64 channels, 62 times the parameters: {best:.1f} %", color="#555555", fontsize=9
    )
    axes.set(
        xlabel="epoch",
        ylabel="accuracy on val (%)",
        ylim=(None, best + 5),
        xlim=(1, epochs[-1]),
        xticks=[1, *range(5, epochs[-1] + 1, 5)],
    )
    axes.set_title("A CNN with 8 channels on the embedded images of CIFAR-10, three seeds", fontsize=11, loc="left")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE)
    print(f"written: {FIGURE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
