"""search.json: what is refused, and the names of the folders."""

from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.search.space.parameter import Parameter, Range
from model.search.space.points import grid_points
from model.search.space.search_file import load_space
from tests.search.fake_search import BASE, FakeSearch, write


def names(tmp_path: Path, parameters: Any, base: dict[str, Any] | None = None) -> list[str]:
    write(tmp_path / "search.json", {"parameters": parameters})
    return [point.name for point in grid_points(load_space(tmp_path, base or BASE))]


def test_the_last_parameter_varies_fastest(tmp_path: Path) -> None:
    assert names(tmp_path, {"temperature": [4.5, 2], "alpha": [0.5, 0.9]}) == [
        "temperature_4.5_alpha_0.5",
        "temperature_4.5_alpha_0.9",
        "temperature_2_alpha_0.5",
        "temperature_2_alpha_0.9",
    ]


def test_without_search_json_it_is_the_legacy_grid(tmp_path: Path) -> None:
    folders = [point.name for point in grid_points(load_space(tmp_path, BASE))]
    assert len(folders) == 40
    assert folders[0] == "alpha_0.05_temperature_1.5"
    assert folders[1] == "alpha_0.05_temperature_2"
    assert folders[-1] == "alpha_0.99_temperature_20"


def test_one_of_our_searches_is_the_legacy_grid() -> None:
    folder = Path(__file__).parents[2] / "experiments" / "cnn_distill_alpha_temp"
    folders = [point.name for point in grid_points(load_space(folder, BASE))]
    assert folders == [point.name for point in grid_points(load_space(Path("nowhere"), BASE))]


def test_a_folder_is_named_by_leaves_and_by_components(tmp_path: Path) -> None:
    folders = names(tmp_path, {"loss.kd.alpha": [0.5], "student.name": ["cnn"], "dataset": [{"name": "cifar100"}]})
    assert folders == ["alpha_0.5_student_cnn_dataset_cifar100"]


def test_two_leaves_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    base = BASE | {"optimizer": {"name": "sgd", "weight": 1}, "schedule": {"name": "step", "weight": 2}}
    assert names(tmp_path, {"optimizer.weight": [3], "schedule.weight": [4]}, base) == [
        "optimizer.weight_3_schedule.weight_4"
    ]


def test_a_shared_value_is_set_but_not_named(tmp_path: Path) -> None:
    write(tmp_path / "search.json", {"parameters": {"num_epochs": {"value": 7}, "alpha": {"values": [0.5]}}})
    [point] = grid_points(load_space(tmp_path, BASE))
    assert (point.name, point.values) == ("alpha_0.5", {"alpha": 0.5, "num_epochs": 7})


def test_values_with_the_same_safe_form_have_different_names(tmp_path: Path) -> None:
    folders = names(tmp_path, {"description": ["a/b", "a-b", "A-B", "other"]})
    assert len({name.casefold() for name in folders}) == 4
    assert folders[3] == "description_other"


def test_long_names_are_cut_and_stay_different(tmp_path: Path) -> None:
    folders = names(tmp_path, {"description": ["x" * 200 + "1", "x" * 200 + "2"]})
    assert len(set(folders)) == 2
    assert {len(name) for name in folders} == {120}


def test_a_larger_grid_keeps_the_names_of_the_smaller_one(tmp_path: Path) -> None:
    smaller = names(tmp_path, {"alpha": [0.5, 0.9], "teacher": ["a/b", "c" * 150]})
    larger = names(tmp_path, {"alpha": [0.1, 0.5, 0.9], "teacher": ["d", "a/b", "c" * 150]})
    assert set(smaller) < set(larger)


ALPHA = {"alpha": [0.5]}


def range_of(low: float, high: float, **keys: Any) -> dict[str, Any]:
    return {"parameters": {"alpha": {"min": low, "max": high} | keys}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "search.json: must be a JSON object, got []"),
        ({}, "search.json: parameters: this key is needed"),
        ({"parameters": {}}, "search.json: parameters: is empty"),
        ({"parameters": [1]}, "search.json: parameters: should be an object, got [1]"),
        (
            {"parameters": ALPHA, "metod": "grid"},
            'metod: unknown key, did you mean "method"?; known: method',
        ),
        (
            {"parameters": ALPHA, "method": "annealing"},
            'method: no sampler is named "annealing"; known: cmaes, gp, grid, nsga2, random, tpe',
        ),
        ({"parameters": ALPHA, "method": "gird"}, 'no sampler is named "gird", did you mean "grid"?'),
        ({"parameters": ALPHA, "method": 3}, "method: should be a valid string, got 3"),
        ({"parameters": {"alpha": []}}, "search.json: parameters.alpha: is empty"),
        ({"parameters": {"alpha": {"values": []}}}, "parameters.alpha.values: is empty"),
        ({"parameters": {"alpha": {"values": 0.5}}}, "parameters.alpha.values: should be a valid list, got 0.5"),
        ({"parameters": {"alpha": [2, 2.0]}}, "parameters.alpha: duplicate value 2.0"),
        (
            {"parameters": {"loss": [{"kd": {"a": 1}}, {"kd": {"a": 1.0}}]}},
            'parameters.loss: duplicate value {"kd": {"a": 1.0}}',
        ),
        ({"parameters": {"alpha": 0.5}}, "parameters.alpha: must be a list of values or an object, got 0.5"),
        ({"parameters": {"alpha": {}}}, 'parameters.alpha: needs either "values", a list, or "value"'),
        ({"parameters": {"alpha": {"values": [1], "value": 1}}}, 'parameters.alpha: needs either "values"'),
        (
            {"parameters": {"alpha": {"value": 0.5}}},
            "parameters: none has several values or a range, so there is nothing to search",
        ),
        (
            {"parameters": {"alpha": {"vals": [1]}}},
            'alpha.vals: unknown key, did you mean "values"?; known',
        ),
        (
            {"parameters": {"alpa": [0.5]}},
            'alpa: no value of params.json has this name, did you mean "alpha"?',
        ),
        ({"parameters": {"alpha": [1], "loss.kd.alpha": [2]}}, 'loss.kd.alpha: sets the same value as "alpha"'),
        ({"parameters": {"alpha": [1], "loss": [{"ce": {}}]}}, 'parameters.loss: sets the same value as "alpha"'),
        ({"parameters": {"loss.kd": [{}], "alpha": [1]}}, 'parameters.alpha: sets the same value as "loss.kd"'),
        (
            {"parameters": ALPHA, "metric": {"name": "test_accuracy"}},
            'metric.name: a search must not use the test split, only val, got "test_accuracy"',
        ),
        (
            {"parameters": ALPHA, "metric": {"goal": "max"}},
            "metric.goal: should be 'maximize' or 'minimize', got",
        ),
        ({"parameters": ALPHA, "metric": {"nam": "x"}}, 'metric.nam: unknown key, did you mean "name"?'),
        ({"parameters": ALPHA, "metric": []}, "metric: is empty"),
        ({"parameters": ALPHA, "metric": "macs"}, 'metric: should be an object, got "macs"'),
        ({"parameters": ALPHA, "metric": [{"name": "macs"}, {"nam": 1}]}, "metric.1.nam: unknown key"),
        ({"parameters": ALPHA, "metric": [{"name": "macs"}, {"name": "macs"}]}, "metric: duplicate metric: macs, macs"),
        (
            {"parameters": ALPHA, "metric": [{}, {"name": "test_loss"}]},
            "metric.1.name: a search must not use the test split",
        ),
        ({"parameters": ALPHA, "run_cap": 0}, "run_cap: should be greater than or equal to 1, got 0"),
        ({"parameters": ALPHA, "method": "bayes"}, 'run_cap: this key is needed, as the method "tpe" has no end'),
        ({"parameters": ALPHA, "seeds": []}, "seeds: is empty"),
        ({"parameters": ALPHA, "seeds": [0, 0]}, "seeds: duplicate seed: [0, 0]"),
        ({"parameters": ALPHA, "seeds": [-1]}, "seeds.0: should be greater than or equal to 0, got -1"),
        ({"parameters": ALPHA, "top": 2}, 'top: is the number of trials that get all "seeds", and there are none'),
        ({"parameters": ALPHA | {"seed": [0]}, "seeds": [0, 1]}, 'seeds: the parameters set "seed", too'),
        (
            {"parameters": ALPHA, "seeds": [0, 1], "metric": [{}, {"name": "macs"}]},
            'seeds: "top" needs a single metric to rank by, got val_accuracy, macs',
        ),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "median"}, "metric": [{}, {"name": "macs"}]},
            "early_terminate: needs a single metric, got val_accuracy, macs",
        ),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "median"}, "metric": {"name": "macs"}},
            "early_terminate: needs a metric with a value per epoch, got macs",
        ),
        ({"parameters": ALPHA, "early_terminate": "median"}, 'early_terminate: should be an object, got "median"'),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "hyper"}},
            'early_terminate.type: no pruner is named "hyper", did you mean "hyperband"?; known: asha, ',
        ),
        ({"parameters": ALPHA, "early_terminate": {"min_iter": 1}}, "early_terminate.type: this key is needed"),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "median", "eta": 3}},
            "early_terminate.eta: unknown option of pruner median; median has min_iter",
        ),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "asha", "name": 3}},
            "early_terminate.name: unknown option of pruner asha; asha has min_iter, eta",
        ),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "asha", "min_iter": "3"}},
            'early_terminate.min_iter: should be a valid integer, got "3"',
        ),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "median", "min_iter": 0}},
            "early_terminate: min_iter must be 1 or more, got 0",
        ),
        (
            {"parameters": ALPHA, "early_terminate": {"type": "asha", "eta": 1}},
            "early_terminate: eta must be 2 or more, got 1",
        ),
        ({"parameters": {"alpha": {"min": 0.1}}}, "parameters.alpha.max: this key is needed"),
        ({"parameters": {"alpha": {"min": 1, "max": 1}}}, "parameters.alpha: min must be less than max, got 1 and 1"),
        ({"parameters": {"alpha": {"min": "a", "max": 1}}}, 'parameters.alpha.min: must be a number, got "a"'),
        (
            {"parameters": {"alpha": {"min": 0, "max": 1}}},
            'alpha: grid needs "values", a list; methods that take a range: cmaes, gp, ',
        ),
        ({"parameters": {"alpha": {"values": [1], "max": 1}}}, 'parameters.alpha: needs either "values"'),
        (
            range_of(0, 1, distribution="log_uniform"),
            "alpha.distribution: should be 'uniform', ",
        ),
        (range_of(0, 1, distribution="log_uniform_values"), "log_uniform_values needs a min above 0, got 0"),
        (range_of(0.5, 2, distribution="int_uniform"), "int_uniform needs whole numbers, got 0.5 and 2"),
        (range_of(0, 1, distribution="q_uniform"), "q_uniform needs q, the distance between two values"),
        (range_of(0, 1, distribution="uniform", q=0.5), "q_uniform needs q, the distance between two values"),
        (range_of(0, 1, q=2), "q must be above 0 and at most max - min, got 2"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    fake = FakeSearch(tmp_path, {})
    write(fake.folder / "search.json", content)
    assert fake.run() == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"error: {fake.folder}/search.json: ")
    assert error.count("\n") == 1
    assert fake.events() == []


def test_broken_json_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path)
    (fake.folder / "search.json").write_text('{"parameters":\n {"alpha": [1,]}}')
    assert fake.run() == 2
    assert "search.json: line 2, column" in capsys.readouterr().err


def test_an_error_in_the_default_grid_says_that_there_is_no_search_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, loss={"ce": {}})
    assert fake.run() == 2
    error = capsys.readouterr().err
    assert "holds no search.json" in error
    assert "alpha: no value of params.json has this name" in error


# Ranges, metrics -----------------------------------------------------------------------------------------------------


def distribution_of(parameter: Parameter) -> str | None:
    assert isinstance(parameter, Range)
    return parameter.distribution


@pytest.mark.parametrize(
    ("parameter", "distribution"),
    [
        ({"min": 0.0, "max": 1.0}, "uniform"),
        ({"min": 0, "max": 1}, "uniform"),  # as params.json has 0.9
        ({"min": 0, "max": 1, "q": 0.25}, "q_uniform"),
        ({"min": 0, "max": 1, "distribution": "int_uniform"}, "int_uniform"),
        ({"min": 0.1, "max": 1, "distribution": "log_uniform_values"}, "log_uniform_values"),
    ],
)
def test_the_distribution_follows_from_the_range(tmp_path: Path, parameter: Any, distribution: str) -> None:
    write(tmp_path / "search.json", {"method": "random", "run_cap": 1, "parameters": {"alpha": parameter}})
    assert distribution_of(load_space(tmp_path, BASE).parameters["alpha"]) == distribution


@pytest.mark.parametrize("name", ["num_epochs", "batch_size", "optimizer.momentum"])
def test_whole_numbers_make_a_range_of_whole_numbers(tmp_path: Path, name: str) -> None:
    write(tmp_path / "search.json", {"method": "random", "run_cap": 1, "parameters": {name: {"min": 1, "max": 9}}})
    space = load_space(tmp_path, BASE | {"optimizer": {"name": "sgd"}})
    assert distribution_of(space.parameters[name]) == "int_uniform"


def test_bayes_is_tpe(tmp_path: Path) -> None:
    write(tmp_path / "search.json", {"method": "bayes", "run_cap": 1, "parameters": ALPHA})
    assert load_space(tmp_path, BASE).method == "tpe"


@pytest.mark.parametrize(("method", "package"), [("gp", "scipy"), ("cmaes", "cmaes")])
def test_a_method_whose_package_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, package: str
) -> None:
    monkeypatch.setattr("model.search.space.search_file.find_spec", lambda name: None if name == package else object())
    write(tmp_path / "search.json", {"method": method, "run_cap": 1, "parameters": ALPHA})
    with pytest.raises(UserError, match=f"method: {method} needs a package .* pip install {package}"):
        load_space(tmp_path, BASE)


def test_cmaes_takes_one_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.search.space.search_file.find_spec", lambda name: object())
    metrics = [{"name": "val_accuracy"}, {"name": "macs"}]
    write(tmp_path / "search.json", {"method": "cmaes", "run_cap": 1, "parameters": ALPHA, "metric": metrics})
    with pytest.raises(
        UserError,
        match="method: cmaes takes one metric, got val_accuracy, macs; gp, grid, nsga2, random, tpe take several",
    ):
        load_space(tmp_path, BASE)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({}, 0.9),
        ({"name": "val_loss"}, 0.1),
        ({"name": "macs"}, 0.1),
        ({"name": "val_accuracy", "goal": "minimize"}, 0.1),
        ({"name": "val_macro_recall"}, 0.9),
        ({"name": "val_macro_f1"}, 0.9),
        ({"name": "latency_ms"}, 0.1),
        ({"name": "images_per_second"}, 0.9),
        ({"name": "val_loss", "goal": "maximize"}, 0.9),
    ],
)
def test_accuracies_and_speed_are_maximized_and_all_else_is_minimized(
    tmp_path: Path, metric: Any, expected: float
) -> None:
    write(tmp_path / "search.json", {"parameters": ALPHA, "metric": metric})
    assert load_space(tmp_path, BASE).metric[0].best([0.9, 0.1]) == expected


# Choices ------------------------------------------------------------------------------------------------------------

PAIRS = {
    "small": {"student.name": "cnn", "batch_size": 16},
    "large": {"student.name": "resnet20", "batch_size": 64, "teacher": None},
}


def values(tmp_path: Path, parameters: Any) -> dict[str, dict[str, Any]]:
    write(tmp_path / "search.json", {"parameters": parameters})
    return {point.name: point.values for point in grid_points(load_space(tmp_path, BASE))}


def test_a_choice_sets_its_values_together(tmp_path: Path) -> None:
    assert values(tmp_path, {"pair": {"choices": PAIRS}, "seed": [0, 1], "num_epochs": {"value": 3}}) == {
        "pair_small_seed_0": PAIRS["small"] | {"seed": 0, "num_epochs": 3},
        "pair_small_seed_1": PAIRS["small"] | {"seed": 1, "num_epochs": 3},
        "pair_large_seed_0": PAIRS["large"] | {"seed": 0, "num_epochs": 3},
        "pair_large_seed_1": PAIRS["large"] | {"seed": 1, "num_epochs": 3},
    }


def test_a_parameter_with_choices_may_have_the_name_of_a_value_that_it_sets(tmp_path: Path) -> None:
    by_name = values(tmp_path, {"loss": {"choices": {"alone": {"loss": {"ce": {}}}, "hinton": {"loss": {"kd": {}}}}}})
    assert by_name == {"loss_alone": {"loss": {"ce": {}}}, "loss_hinton": {"loss": {"kd": {}}}}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pair": {"choices": {}}}, "parameters.pair.choices: is empty"),
        ({"pair": {"choices": {"a": {}}}}, "parameters.pair.choices.a: is empty"),
        (
            {"pair": {"choices": {"a b": {"seed": 1}}}},
            "parameters.pair.choices: a choice is a part of folder names: only letters, digits and ._+-",
        ),
        ({"pair": {"choices": {"a": {"seed": 1}}, "values": [1]}}, 'needs either "values", a list, or "value", or'),
        (
            {"pair": {"choices": {"a": {"sed": 1}}}},
            "pair.choices.a.sed: no value of params.json has this name",
        ),
        ({"pair": {"choices": {"a": {"seed": 1}}}, "seed": [1, 2]}, 'parameters.seed: sets the same value as "pair"'),
        (
            {"pair": {"choices": {"a": {"student": {"name": "cnn"}, "student.name": "cnn"}}}},
            'parameters.pair.choices.a.student.name: sets the same value as "pair"',
        ),
        (
            {"pair": {"choices": {"a": {"loss.kd": {"alpha": 1}, "loss": {"values": [{"ce": {}}]}}}}},
            'parameters.pair.choices.a.loss: sets the same value as "pair"',
        ),
        (
            {"pair": {"choices": {"a": {"loss": {"ce": {}}, "loss.kd.alpha": {"values": [1]}}}}},
            "parameters.pair.choices.a.loss.kd.alpha: no value of params.json has this name",
        ),
        ({"pair": {"choices": {"a": {"seed": {"values": [1, 1]}}}}}, "pair.choices.a.seed.values: duplicate value 1"),
        (
            {"pair": {"choices": {"a": {"seed": {"min": 1, "mx": 2}}}}},
            'pair.choices.a.seed.mx: unknown key, did you mean "max"',
        ),
    ],
)
def test_wrong_choices_are_one_line(tmp_path: Path, parameters: Any, message: str) -> None:
    write(tmp_path / "search.json", {"parameters": parameters})
    with pytest.raises(UserError) as caught:
        load_space(tmp_path, BASE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/elsewhere/x", "../x", "a/b", ".hidden", "a\0b", "a\nb", "caf\udce9"])
def test_a_name_of_choices_that_leads_out_of_the_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fake = FakeSearch(tmp_path, {name: {"choices": {"a": {"seed": 1}, "b": {"seed": 2}}}})
    assert fake.run() == 2
    assert "the name is a part of folder names, which cannot hold" in capsys.readouterr().err
    assert fake.runs() == []


def test_a_name_of_choices_may_have_spaces(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"my pair": {"choices": {"a": {"seed": 1}, "b": {"seed": 2}}}})
    assert fake.run() == 0
    assert fake.runs() == ["my pair_a", "my pair_b"]
