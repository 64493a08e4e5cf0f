"""The page without a browser: self-contained, of limited size, and no text of a folder is code."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from model.report.page.page import render_page, write_page
from model.report.runs import Runs

from ...report.conftest import MakeRun
from .conftest import HOSTILE


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text of its JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.json = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.json += data


def content(page: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Elements(page.read_text(encoding="utf-8")).json)
    return values


def test_page_refers_to_nothing_outside_of_itself(page: Path) -> None:
    elements = Elements(page.read_text(encoding="utf-8")).found
    targets = [value for _, attrs in elements for name, value in attrs.items() if name in ("src", "href")]
    assert targets
    assert all(target and target.startswith("data:") for target in targets)


def test_texts_of_folders_are_no_elements(page: Path) -> None:
    tags = [tag for tag, _ in Elements(page.read_text(encoding="utf-8")).found]
    assert tags.count("script") == 4  # the data, two libraries, the page's own
    assert not {"b", "i"} & set(tags)


def test_only_scripts_of_this_package_are_allowed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    (policy,) = [attrs["content"] for tag, attrs in Elements(text).found if "http-equiv" in attrs]
    assert policy is not None
    scripts = policy.partition("script-src ")[2].split()
    assert len(scripts) == 3
    assert all(script.startswith("'sha256-") for script in scripts)


def test_runs_have_their_state_link_notes_and_log(page: Path) -> None:
    failed = content(page)["runs"][HOSTILE]
    assert failed["state"] == "failed"
    assert failed["href"] == "%3C/script%3E%3Cscript%3Edocument.title%3D%27pwned%27%3C/"
    assert failed["notes"] == "the loss is <b>nan</b>"
    assert failed["log"] == "epoch 1\n<i>loss</i> is nan"
    others = [run for path, run in content(page)["runs"].items() if path != HOSTILE]
    assert {run["log"] for run in others} == {""}


def test_params_are_shared_or_differ(page: Path) -> None:
    values = content(page)
    assert values["shared"]["student.num_channels"] == "8"
    assert "loss.kd.alpha" not in values["shared"]
    assert values["runs"]["alpha_0.9_temperature_4_seed_1"]["params"] == {
        "teacher": "experiments/teacher",
        "teacher.weights": "best",
        "teacher.combine": "probabilities",
        "teacher.classes": "same",
        "loss": "kd",
        "loss.kd.alpha": "0.9",
        "loss.kd.temperature": "4",
        "seed": "1",
    }


def test_curve_is_the_mean_and_the_range_over_the_seeds(page: Path) -> None:
    first = content(page)["curves"][0]
    assert first["name"] == "alpha_0.9_temperature_10"
    assert first["epochs"] == [1, 2, 3]
    assert first["mean"] == [75.5, 80.5, 82.17]  # of 0.85 and 0.86, less 0.1 / epoch
    assert first["low"] == [75.0, 80.0, 81.67]
    assert first["high"] == [76.0, 81.0, 82.67]


def test_heat_map_has_the_params_that_vary_and_accuracies_in_percent(page: Path) -> None:
    values = content(page)
    assert values["varied"] == ["loss.kd.alpha", "loss.kd.temperature"]
    cells = [run for run in values["grid"] if run["params"] == {"loss.kd.alpha": "0.5", "loss.kd.temperature": "4"}]
    assert [(cell["val"], cell["test"]) for cell in cells] == [(72.0, 62.0), (73.0, 63.0)]


def test_numbers_are_sorted_and_filtered_as_they_are_shown(page: Path) -> None:
    table = content(page)["tables"]["runs"]
    titles = [column["title"] for column in table["columns"]]
    (row,) = [row for row in table["rows"] if row["name"] == "alpha_0.5_temperature_10_seed_0"]
    shown = dict(zip(titles, zip(row["values"], row["texts"], strict=True), strict=True))
    assert shown["val best"] == (pytest.approx(75.0), "75.00")
    assert shown["temperature"] == (10.0, "10")


def test_summary_names_the_best_on_val_and_counts_states(grid: Path) -> None:
    page = render_page(Runs.read(grid), "")
    assert "9 runs of 5 kinds that differ in more than their seed: 8 finished, 1 failed." in page
    best = "Best on val: alpha_0.9_temperature_10, with 85.50 ± 0.71 % on val and 75.50 ± 0.71 % on test (2 seeds)."
    assert best in page


def test_summary_counts_verdicts(grid: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> None:
    for seed, accuracy in ((0, 0.62), (1, 0.6295)):  # the differences of one kind are 0 and 0.05 points
        make_run(f"alone/{seed}", params=cnn | {"seed": seed}, run=finished, val=(0.7, 0.7), test=(accuracy, accuracy))
    page = render_page(Runs.read(grid).compared_with(grid.parent / "alone"), "")
    assert "Compared with the baseline on test: 3 better, 1 not shown." in page


def test_thousand_runs_of_200_epochs_are_less_than_5_mb(
    make_run: MakeRun, tmp_path: Path, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    history = "\n".join(
        json.dumps({"epoch": epoch, "val_accuracy": 0.5 + epoch / 1000 + 1e-7, "train_loss": 1.23456789})
        for epoch in range(1, 201)
    )
    for number in range(1000):
        optimizer = {"name": "adam", "learning_rate": 0.001 * (1 + number)}
        folder = make_run(
            f"search/learning_rate_{number}_and_a_name_that_is_rather_long",
            params=cnn | {"optimizer": optimizer},
            run=finished | {"parameters": 22954, "macs": 800000},
            val=(0.5 + number / 10000, 0.6),
            test=(0.5 + number / 10000, 0.6),
        )
        (folder / "metrics.jsonl").write_text(history)
    page = write_page(Runs.read(tmp_path / "search"), "")
    assert page.stat().st_size < 5e6


def test_broken_files_are_notes(make_run: MakeRun, tmp_path: Path, cnn: dict[str, Any]) -> None:
    folder = make_run("broken", params=cnn, run="{", val=(0.5, 0.5))
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "val_accuracy": 0.1}\n{"epoch": "x", "val_accuracy": []}\n{"ep')
    values = content(write_page(Runs.read(tmp_path), ""))
    assert "run.json" in values["runs"]["broken"]["notes"]
    assert values["curves"] == []
