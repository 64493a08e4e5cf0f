"""More seeds for the best trials, which are ranked on val by the seeds of the search alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import search_hyperparams
from model.errors import UserError
from model.search.seeds import FinalSeeds
from tests.search.fake_search import FakeSearch

ALPHAS = {"alpha": [0.3, 0.1, 0.2]}
RANGES = {"alpha": {"min": 0.0, "max": 1.0}, "temperature": {"min": 1.0, "max": 20.0}}


def with_seeds(tmp_path: Path, *seeds: int, **search: Any) -> FakeSearch:
    return FakeSearch(tmp_path, ALPHAS, search={"seeds": list(seeds)} | search, num_epochs=1)


def test_all_trials_get_the_first_seed_and_the_best_get_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = with_seeds(tmp_path, 0, 1, 2, top=1)
    assert fake.run(jobs=1) == 0
    assert fake.begun() == ["alpha_0.3", "alpha_0.1", "alpha_0.2", "alpha_0.3_seed_1", "alpha_0.3_seed_2"]
    shown = capsys.readouterr().err
    assert "3 of 3 runs are finished\n" in shown
    assert "the best 1 trials with the other seeds: 2 runs\n" in shown
    assert shown.endswith("2 of 2 runs are finished\n")


def test_the_run_of_another_seed_differs_in_its_seed_alone(tmp_path: Path) -> None:
    fake = with_seeds(tmp_path, 0, 7, top=1)
    fake.run()
    assert fake.read("alpha_0.3_seed_7", "params.json") == fake.read("alpha_0.3", "params.json") | {"seed": 7}


def test_top_is_three_by_default(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3, 0.4]}, search={"seeds": [0, 1]}, num_epochs=1)
    fake.run(jobs=1)
    assert fake.begun()[4:] == ["alpha_0.4_seed_1", "alpha_0.3_seed_1", "alpha_0.2_seed_1"]


def test_folder_names_have_the_seed_unless_it_is_that_of_the_base(tmp_path: Path) -> None:
    fake = with_seeds(tmp_path, 5, 0, top=1)
    fake.run(jobs=1)
    assert fake.begun() == ["alpha_0.3_seed_5", "alpha_0.1_seed_5", "alpha_0.2_seed_5", "alpha_0.3"]


def test_seeds_can_be_added_later(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS, num_epochs=1)
    fake.run(jobs=1)
    fake.change(seeds=[0, 1], top=2)
    assert fake.run(jobs=1) == 0
    assert fake.begun()[3:] == ["alpha_0.3_seed_1", "alpha_0.2_seed_1"]
    assert fake.run() == 0
    assert len(fake.begun()) == 5


def test_a_failed_trial_is_none_of_the_best(tmp_path: Path) -> None:
    outcomes = {"outcome": {"choices": {"bad": {"student.outcome": "fail"}, "good": {"student.outcome": "finish"}}}}
    fake = FakeSearch(
        tmp_path, outcomes, search={"seeds": [0, 1]}, student={"outcome": "finish", "accuracy": "0.5"}, num_epochs=1
    )
    assert fake.run(jobs=1) == 1
    assert fake.begun() == ["outcome_bad", "outcome_good", "outcome_good_seed_1"]


def test_a_sampler_gets_the_mean_of_the_seeds(tmp_path: Path) -> None:
    search = {"method": "tpe", "run_cap": 3, "seeds": [0, 2, 4], "top": 1}
    fake = FakeSearch(tmp_path, RANGES, search=search, student={"accuracy": "alpha + seed / 100"}, num_epochs=1)
    assert fake.run(jobs=1) == 0
    fake.change(run_cap=4)
    fake.run(jobs=1)
    trials = fake.study().trials[:3]
    best = max(trials, key=lambda trial: trial.params["alpha"])
    for trial in trials:
        expected = trial.params["alpha"] + (0.02 if trial == best else 0)
        assert trial.value == pytest.approx(expected)


# The end ------------------------------------------------------------------------------------------------------------


def test_the_best_get_seeds_that_were_not_used_in_the_search(tmp_path: Path) -> None:
    fake = with_seeds(tmp_path, 0, 2, top=1)
    assert fake.run(jobs=1, final=FinalSeeds(top=2, num_seeds=2)) == 0
    assert fake.begun()[4:] == ["alpha_0.3_seed_1", "alpha_0.3_seed_3", "alpha_0.2_seed_1", "alpha_0.2_seed_3"]


def test_the_final_seeds_do_not_change_which_are_the_best(tmp_path: Path) -> None:
    # On every seed but that of the search the best cell is the worst.
    fake = FakeSearch(tmp_path, ALPHAS, student={"accuracy": "alpha if seed == 0 else 0.9 - alpha"}, num_epochs=1)
    final = FinalSeeds(top=1, num_seeds=2)
    fake.run(jobs=1, final=final)
    assert fake.begun()[3:] == ["alpha_0.3_seed_1", "alpha_0.3_seed_2"]
    assert fake.run(final=final) == 0
    assert len(fake.begun()) == 5


def test_trials_are_ranked_by_the_mean_over_the_seeds_of_the_search(tmp_path: Path) -> None:
    formula = "{0.3: 0.8, 0.2: 0.7, 0.1: 0.1}[alpha] - (0.5 if alpha == 0.3 and seed else 0)"
    fake = FakeSearch(tmp_path, ALPHAS, search={"seeds": [0, 1], "top": 2}, student={"accuracy": formula}, num_epochs=1)
    fake.run(jobs=1, final=FinalSeeds(top=1, num_seeds=1))
    assert fake.begun()[-1] == "alpha_0.2_seed_2"


@pytest.mark.parametrize(
    ("parameters", "search", "message"),
    [
        (ALPHAS, {"metric": [{"name": "val_accuracy"}, {"name": "macs"}]}, "--top needs a single metric to rank by"),
        (ALPHAS | {"seed": [0, 1]}, {}, '--top: the search sets "seed" as a parameter'),
    ],
)
def test_final_seeds_need_a_ranking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parameters: Any, search: Any, message: str
) -> None:
    fake = FakeSearch(tmp_path, parameters, search=search, seed=0)
    assert fake.run(final=FinalSeeds(top=1, num_seeds=1)) == 2
    assert message in capsys.readouterr().err
    assert fake.begun() == []


# The script, with nothing left to do --------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, fake: FakeSearch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["search_hyperparams.py", "--parent_dir", str(fake.folder), *options])
    return search_hyperparams.main()


def test_the_final_table_is_of_the_new_seeds_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeSearch(tmp_path, ALPHAS, student={"accuracy": "alpha + seed / 100"}, num_epochs=1)
    fake.run(final=FinalSeeds(top=1, num_seeds=2))
    assert call(monkeypatch, fake, "--top", "1", "--final_seeds", "2") == 0
    table = capsys.readouterr().out.partition("The best 1 on val, with 2 seeds that were not used in the search:\n\n")[
        2
    ]
    [row] = table.splitlines()[2:]
    # Seeds 1 and 2: 0.31 and 0.32 on val, the half of it on test.
    assert "31.50 ± 0.71" in row
    assert "15.75 ± 0.35" in row
    assert [cell.strip() for cell in row.split("|")][1:3] == ["alpha_0.3", "2"]


def test_a_search_with_several_metrics_ends_with_its_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 0.2 costs more than 0.3 and is worse; of the others, what is worse costs less.
    costs = "{0.1: 3e6, 0.2: 4e6, 0.3: 3.5e6, 0.05: 1e6}[alpha]"
    metrics = [{"name": "val_accuracy"}, {"name": "macs"}]
    fake = FakeSearch(
        tmp_path, {"alpha": [0.1, 0.2, 0.3, 0.05]}, search={"metric": metrics}, student={"macs": costs}, num_epochs=1
    )
    assert fake.run() == 0
    assert call(monkeypatch, fake) == 0
    front = capsys.readouterr().out.partition("The Pareto front:\n\n")[2]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in front.splitlines()[2:]] == [
        ["alpha_0.3", "30.00 %", "3,500,000"],
        ["alpha_0.1", "10.00 %", "3,000,000"],
        ["alpha_0.05", "5.00 %", "1,000,000"],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--top", "3"), "--top K and --final_seeds N go together"),
        (("--top", "0", "--final_seeds", "1"), "--top and --final_seeds must be 1 or more, got 0 and 1"),
        (("--retries", "-1"), "--retries must be 0 or more, got -1"),
        (("--max_failures", "0"), "--max_failures must be 1 or more, got 0"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        call(monkeypatch, FakeSearch(tmp_path, ALPHAS), *options)
