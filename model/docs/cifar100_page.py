"""The tables of published accuracies in docs/cifar100.md, made from the benchmark's published.json.

python -m model.docs.cifar100_page      writes them into the page
"""

from __future__ import annotations

from tabulate import tabulate

from ..files import read_json
from ..report.published import PUBLISHED_FILE, read_published
from . import REPOSITORY
from .pages import PageWithGeneratedSection

BENCHMARK = REPOSITORY / "experiments" / "cifar100_benchmark" / "methods"
NUM_SAME_ARCHITECTURE = 7  # the first pairs of the search: teacher and student are of one architecture


def tables() -> str:
    """A table of pairs of one architecture, one of pairs of two, and one of the sources and their protocols."""
    published = read_json(BENCHMARK / PUBLISHED_FILE)
    pairs = list(read_json(BENCHMARK / "search.json")["parameters"]["pair"]["choices"])
    sources = [(f"[{name}]({source['url']})", source["protocol"]) for name, source in published["sources"].items()]
    parts = [
        accuracy_table(pairs[:NUM_SAME_ARCHITECTURE], published["teachers"]),
        accuracy_table(pairs[NUM_SAME_ARCHITECTURE:], published["teachers"]),
        tabulate(sources, ("by", "protocol"), tablefmt="pipe"),
    ]
    return "\n\n".join(parts)


def accuracy_table(pairs: list[str], teachers: dict[str, float]) -> str:
    """A row for every method and source that has a result for one of the pairs."""
    rows = [["teacher", "RepDistiller", *(f"{teachers[pair.partition('-')[0]]:.2f}" for pair in pairs)]]
    for result in read_published(BENCHMARK):
        cells = [f"{result.accuracies[pair]:.2f}" if pair in result.accuracies else "-" for pair in pairs]
        if set(cells) != {"-"}:
            rows.append([f"`{result.method}`", result.source, *cells])
    headers = ("", "by", *(pair.replace("-", " ") for pair in pairs))
    alignment = ("left", "left", *("right" for _ in pairs))
    table: str = tabulate(rows, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)
    return table


PAGE = PageWithGeneratedSection("cifar100.md", tables)

if __name__ == "__main__":
    PAGE.write()
