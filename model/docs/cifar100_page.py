"""The published tables in docs/cifar100.md, made from the benchmark's published.json.

python -m model.docs.cifar100      writes them into the page
"""

from __future__ import annotations

from tabulate import tabulate

from ..files import read_json, replace_section, write_text
from ..home import ROOT
from ..report.published import PUBLISHED_FILE, read_published

PAGE = ROOT / "docs" / "cifar100.md"

FOLDER = ROOT / "experiments" / "cifar100_benchmark" / "methods"
BEGIN, END = "<!-- made by python -m model.docs.cifar100 -->\n", "<!-- to here -->\n"
ALIKE = 7  # so many of the pairs, the first ones, are of one architecture


def tables() -> str:
    """Pairs of one architecture, pairs of two, and what each source's numbers are."""
    told = read_json(FOLDER / PUBLISHED_FILE)
    pairs = list(read_json(FOLDER / "search.json")["parameters"]["pair"]["choices"])
    sources = [(f"[{name}]({each['url']})", each["protocol"]) for name, each in told["sources"].items()]
    parts = [
        _table(pairs[:ALIKE], told["teachers"]),
        _table(pairs[ALIKE:], told["teachers"]),
        tabulate(sources, ("by", "what its numbers are"), tablefmt="pipe"),
    ]
    return "\n\n".join(parts) + "\n"


def _table(pairs: list[str], teachers: dict[str, float]) -> str:
    """A row for every method and source that has any of the pairs."""
    body = [["teacher", "RepDistiller", *(f"{teachers[pair.partition('-')[0]]:.2f}" for pair in pairs)]]
    for row in read_published(FOLDER):
        cells = [f"{row.accuracies[pair]:.2f}" if pair in row.accuracies else "-" for pair in pairs]
        if set(cells) != {"-"}:
            body.append([f"`{row.method}`", row.source, *cells])
    heads = [pair.replace("-", " ") for pair in pairs]
    alignment = ("left", "left", *("right" for _ in pairs))
    table: str = tabulate(body, ("", "by", *heads), tablefmt="pipe", colalign=alignment, disable_numparse=True)
    return table


def page(text: str) -> str:
    """The page's text with the tables as the file has them."""
    return replace_section(text, BEGIN, END, tables())


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8")))
    print(f"written: {PAGE.relative_to(ROOT)}")
