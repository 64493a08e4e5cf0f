"""Classes are matched by name, wherever weights and data meet: a teacher, init, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import evaluate
import train
from model import load
from model.build.classes import group_classes, match_classes
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.teacher import build_teacher, read_teacher_weights
from model.build.trainer import build_trainer
from model.config.folder import Folder
from model.errors import UserError
from model.files import read_json
from model.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import NUM_CLASSES, Call, MakeFolder

NAMES = tuple("abcdefghij")
ORDER = (3, 0, 9, 1, 8, 2, 7, 4, 6, 5)  # the classes of the other data set, as numbers of the first
REORDERED = tuple(NAMES[k] for k in ORDER)


# The rule ------------------------------------------------------------------------------------------------------------


def test_equal_names_in_one_order_need_no_columns() -> None:
    assert match_classes(("cat", "dog"), ("cat", "dog"), {}) is None


def test_columns_follow_the_names() -> None:
    assert match_classes(("cat", "dog", "emu"), ("emu", "cat", "dog"), {}) == [2, 0, 1]


def test_numbers_in_the_order_of_texts_are_matched_by_name() -> None:
    assert match_classes(("0", "1", "10", "2"), ("0", "1", "2", "10"), {}) == [0, 1, 3, 2]


def test_class_map_translates_their_names_into_ours() -> None:
    assert match_classes(("tabby", "dog"), ("dog", "cat"), {"tabby": "cat"}) == [1, 0]


def test_by_index_keeps_the_order_whatever_the_names() -> None:
    assert match_classes(("0", "1"), ("cat", "dog"), "by_index") is None


@pytest.mark.parametrize(
    ("theirs", "ours", "class_map", "message"),
    [
        (("cat", "emu"), ("cat", "dog"), {}, r'differ from the data\'s: "emu" there, "dog" here'),
        (("cat",), ("cat", "dog"), {}, r'"dog" here'),
        (("cat",), ("cat", "dog"), "by_index", r'"dog" here'),
        (("cat", "cat"), ("cat", "dog"), {}, r'"cat" there, "dog" here'),
        (tuple("abcde"), tuple("vwxyz"), {}, r'"a", "b", "c" and 2 more there, "v", "w", "x" and 2 more here'),
        (("cat", "dog"), ("cat", "dog"), {"emu": "dog"}, r'class_map names a class that is not there: "emu"'),
    ],
)
def test_other_names_are_refused_with_the_first_differences(
    theirs: tuple[str, ...], ours: tuple[str, ...], class_map: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        match_classes(theirs, ours, class_map)


THEIRS = ("tabby", "dog", "siamese", "emu")


def test_classes_of_a_teacher_alone_are_dropped_or_become_one_more() -> None:
    assert group_classes(THEIRS, ("emu", "dog"), {}, "renormalised") == [[3], [1]]
    assert group_classes(THEIRS, ("emu", "dog"), {}, "rest") == [[3], [1], [0, 2]]


def test_several_classes_of_a_teacher_are_one_of_the_data_by_class_map() -> None:
    class_map = {"tabby": "cat", "siamese": "cat"}
    assert group_classes(THEIRS, ("cat", "dog", "emu"), class_map, "same") == [[0, 2], [1], [3]]


def test_without_other_classes_there_is_no_rest() -> None:
    assert group_classes(("dog", "emu"), ("emu", "dog"), {}, "rest") == [[1], [0]]
    assert group_classes(("emu", "dog"), ("emu", "dog"), {}, "rest") is None


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (
            THEIRS,
            ("dog", "emu"),
            'the data has no class "tabby", "siamese": "classes" can be "renormalised", or "rest"',
        ),
        (THEIRS, ("dog", "cat"), 'its classes differ from the data\'s: "tabby", "siamese", "emu" there, "cat" here'),
        (("crane", "dog", "crane"), ("crane", "dog"), 'it has 2 classes "crane": which one is meant cannot be told'),
    ],
)
def test_classes_that_a_teacher_cannot_tell_apart_or_does_not_have_are_refused(
    theirs: tuple[str, ...], ours: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        group_classes(theirs, ours, {}, "same")


# Data sets of the same images whose classes have names --------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A folder with `named.npz`, and `reordered.npz`: the same with its classes in another order."""
    folder = tmp_path_factory.mktemp("named")
    arrays = dict(np.load(tiny_data))
    np.savez(folder / "named.npz", **arrays, class_names=np.array(NAMES))
    number_of = np.argsort(ORDER)
    labels = {key: number_of[arrays[key]] for key in ("train_labels", "test_labels")}
    np.savez(folder / "reordered.npz", **arrays | labels, class_names=np.array(REORDERED))
    return folder


def dataset(path: Path, **options: Any) -> dict[str, Any]:
    return {"name": "arrays", "path": str(path), "val_size": 40, "pad": 1, **options}


@pytest.fixture(scope="module")
def teacher(data: Path, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A network of the first data set."""
    folder = make_folder(data / "teacher", dataset=dataset(data / "named.npz"), student={"name": "resnet8"})
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture(scope="module")
def reordered_teacher(data: Path, teacher: Folder, make_folder: MakeFolder) -> Folder:
    """The same network with the rows of its classifier, and its class names, in the other order."""
    folder = make_folder(data / "other", dataset=dataset(data / "reordered.npz"), student={"name": "resnet8"})
    for weights in ("best", "last"):
        content = load_checkpoint(teacher.checkpoint(weights))
        state = content["state_dict"]
        rows = {name: state[name][list(ORDER)] for name in ("fc.weight", "fc.bias")}
        content |= {"state_dict": state | rows, "class_names": list(REORDERED)}
        save_checkpoint(folder.checkpoint(weights), content)
    return folder


def last_state(folder: Folder) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(folder.checkpoint("last"))["state_dict"]
    return state


def train_student(path: Path, data: Path, make_folder: MakeFolder, runtime: Runtime, **changes: Any) -> Folder:
    folder = make_folder(path, dataset=dataset(data / "reordered.npz"), num_epochs=1, **changes)
    Experiment(folder.path, runtime).train()
    return folder


@pytest.mark.parametrize(
    ("loss", "cache"),
    [
        ({"kd": {"alpha": 1.0}}, True),
        ({"kd": {"alpha": 1.0}}, False),
        ({"logits": {}, "ce": {}}, False),
        ({"srrl": {}}, False),  # reads the teacher's classifier
    ],
)
def test_a_teacher_of_another_order_teaches_as_one_of_the_students_order(
    teacher: Folder,
    reordered_teacher: Folder,
    data: Path,
    make_folder: MakeFolder,
    runtime: Runtime,
    tmp_path: Path,
    loss: Any,
    cache: bool,
) -> None:
    states = []
    for folder in (teacher, reordered_teacher):
        options = {"model_dir": str(folder.path), "cache": cache}
        student = train_student(tmp_path / folder.path.name, data, make_folder, runtime, loss=loss, teacher=options)
        states.append(last_state(student))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_members_of_an_ensemble_are_put_in_order_one_by_one(
    teacher: Folder, reordered_teacher: Folder, data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    states = []
    for number, pair in enumerate([(teacher, reordered_teacher), (reordered_teacher, reordered_teacher)]):
        names = [str(folder.path) for folder in pair]
        loss = {"kd": {"alpha": 1.0}}
        student = train_student(tmp_path / str(number), data, make_folder, runtime, loss=loss, teacher=names)
        states.append(last_state(student))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_init_of_another_order_starts_as_one_of_this_order(
    teacher: Folder, reordered_teacher: Folder, data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    states = []
    for folder in (teacher, reordered_teacher):
        changes = {"init": str(folder.path), "student": {"name": "resnet8"}}
        student = train_student(tmp_path / folder.path.name, data, make_folder, runtime, **changes)
        states.append(last_state(student))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_evaluation_of_another_order_counts_each_class_by_its_name(
    teacher: Folder, data: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", dataset=dataset(data / "reordered.npz"), student={"name": "resnet8"})
    result = call(
        evaluate.main, "--model_dir", folder.path, "--restore_file", teacher.checkpoint("best"), "--device", "cpu"
    )
    assert result.status == 0, result.err
    found = read_json(next((folder.path / "evaluation").glob("*.json")))
    assert found["accuracy"] == read_json(teacher.metrics("test", "best"))["accuracy"]
    assert [row["class"] for row in found["classes"]] == list(REORDERED)


def test_a_loaded_network_has_the_names_of_its_own_outputs(
    teacher: Folder, data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", dataset=dataset(data / "reordered.npz"), student={"name": "resnet8"})
    folder.checkpoint("best").write_bytes(teacher.checkpoint("best").read_bytes())
    assert load(folder.path, runtime=runtime).class_names == NAMES


def test_a_teacher_of_other_names_is_refused_before_training(
    teacher: Folder, tiny_data: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", dataset=dataset(tiny_data), loss={"kd": {}}, teacher=str(teacher.path))
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 2
    assert result.err == (
        f"error: {folder.params}: teacher: {teacher.name}: its classes differ from the data's: "
        '"a", "b", "c" and 7 more there, "0", "1", "2" and 7 more here; class_map can tell which is which\n'
    )
    assert not folder.run.exists()


@pytest.mark.parametrize("class_map", ["by_index", {name: str(number) for number, name in enumerate(NAMES)}], ids=str)
def test_class_map_lets_a_teacher_of_other_names_teach(
    teacher: Folder, tiny_data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, class_map: Any
) -> None:
    folder = make_folder(
        tmp_path / "run",
        dataset=dataset(tiny_data),
        teacher={"model_dir": str(teacher.path)} | {"class_map": class_map},
        loss={"kd": {}},
        num_epochs=1,
    )
    Experiment(folder.path, runtime).train()
    assert folder.is_trained()


def test_evaluation_on_renamed_classes_is_refused_unless_the_data_sets_class_map_says_how(
    teacher: Folder, tiny_data: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    options: Any = ("--restore_file", teacher.checkpoint("best"), "--device", "cpu")
    folder = make_folder(tmp_path / "run", dataset=dataset(tiny_data), student={"name": "resnet8"})
    refused = call(evaluate.main, "--model_dir", folder.path, *options)
    assert refused.status == 2
    assert "its classes differ from the data's" in refused.err
    class_map = {str(number): name for number, name in enumerate(NAMES)}
    make_folder(folder.path, dataset=dataset(tiny_data, class_map=class_map), student={"name": "resnet8"})
    assert call(evaluate.main, "--model_dir", folder.path, *options).status == 0


@pytest.mark.parametrize(
    ("class_map", "message"),
    [({"cat": "dog"}, 'the data has no class "cat"'), ({"0": "1"}, "gives two classes one name")],
)
def test_a_wrong_class_map_of_the_data_is_refused(
    tiny_data: Path, make_folder: MakeFolder, tmp_path: Path, call: Call, class_map: Any, message: str
) -> None:
    folder = make_folder(tmp_path / "run", dataset=dataset(tiny_data, class_map=class_map))
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert (result.status, result.err) == (2, f"error: {folder.params}: dataset.class_map: {message}\n")


def test_class_names_are_in_the_weights_files_and_in_run_json(teacher: Folder) -> None:
    contents = [load_checkpoint(teacher.checkpoint("best")), load_checkpoint(teacher.checkpoint("last"))]
    assert [each["class_names"] for each in (*contents, teacher.read_run())] == [list(NAMES)] * 3
    assert len(NAMES) == NUM_CLASSES


def test_a_multi_exit_teacher_of_another_order_teaches_by_reordered_outputs(
    data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    student_network = {"name": "multi_exit_resnet18"}
    teacher = make_folder(
        tmp_path / "teacher", dataset=dataset(data / "named.npz"), student=student_network, num_epochs=1
    )
    Experiment(teacher.path, runtime).train()
    changes: dict[str, Any] = {"teacher": {"model_dir": str(teacher.path), "cache": False}, "loss": {"kd": {}}}
    student = make_folder(tmp_path / "student", dataset=dataset(data / "reordered.npz"), **changes)
    own = make_folder(tmp_path / "own", dataset=dataset(data / "named.npz"), **changes)
    outputs = []
    for folder in (student, own):
        experiment = Experiment(folder.path, runtime)
        built = build_teacher(experiment, read_teacher_weights(experiment))
        assert built is not None
        outputs.append(built(next(experiment.data.eval_batches("test", 8))))
    assert torch.equal(outputs[0].logits, outputs[1].logits[:, list(ORDER)])


def test_a_multi_exit_network_of_another_order_is_refused_as_init(
    data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    student = {"name": "multi_exit_resnet18"}
    first = make_folder(tmp_path / "first", dataset=dataset(data / "named.npz"), student=student, num_epochs=1)
    Experiment(first.path, runtime).train()
    folder = make_folder(
        tmp_path / "run", dataset=dataset(data / "reordered.npz"), student=student, init=str(first.path)
    )
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 2
    assert result.err.splitlines()[-1].endswith("the network has no single classifier to reorder")


# A teacher of other classes than the student's ------------------------------------------------------------------------


FEW = ("c", "a", "b")  # classes of the third data set, by name those of three of the first


@pytest.fixture(scope="module")
def few(data: Path) -> Path:
    """The images of three classes of the first data set, in another order of classes."""
    arrays = dict(np.load(data / "named.npz"))
    parts: dict[str, Any] = {"class_names": np.array(FEW)}
    for split in ("train", "test"):
        labels = arrays[f"{split}_labels"]
        kept = np.isin(labels, [NAMES.index(name) for name in FEW])
        parts[f"{split}_images"] = arrays[f"{split}_images"][kept]
        parts[f"{split}_labels"] = np.array([FEW.index(NAMES[label]) for label in labels[kept]])
    np.savez(data / "few.npz", **parts)
    return data / "few.npz"


def few_student(
    few: Path, path: Path, make_folder: MakeFolder, teacher: Folder, loss: Any = None, **options: Any
) -> Folder:
    return make_folder(
        path,
        dataset={"name": "arrays", "path": str(few), "val_size": 15, "pad": 1},
        loss=loss or {"kd": {"alpha": 0.9}},
        teacher={"model_dir": str(teacher.path), **options},
        num_epochs=1,
    )


def probabilities(teacher: Folder, experiment: Experiment, images: Tensor, runtime: Runtime) -> Tensor:
    """The teacher's, in float64, for images as the student's data set normalises them."""
    content, own = load_checkpoint(teacher.checkpoint("best")), experiment.source.normalisation
    mean, std, its_mean, its_std = (
        torch.tensor(values).view(-1, 1, 1) for values in (own.mean, own.std, content["mean"], content["std"])
    )
    logits: Tensor = load(teacher.path, runtime=runtime)((images * std + mean - its_mean) / its_std).logits
    return logits.detach().double().softmax(dim=1)


@pytest.mark.parametrize("classes", ["renormalised", "rest"])
def test_a_teacher_of_more_classes_teaches_with_the_probabilities_of_the_students(
    few: Path, teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, classes: str
) -> None:
    folder = few_student(few, tmp_path / "student", make_folder, teacher, classes=classes)
    experiment = Experiment(folder.path, runtime)
    built = build_teacher(experiment, read_teacher_weights(experiment))
    assert built is not None
    batch = next(experiment.data.train_batches(0, 16))
    p_NK = probabilities(teacher, experiment, batch.images, runtime)
    own_NK = p_NK[:, [NAMES.index(name) for name in FEW]]
    expected = own_NK / own_NK.sum(dim=1, keepdim=True)
    if classes == "rest":
        expected = torch.cat([own_NK, 1 - own_NK.sum(dim=1, keepdim=True)], dim=1)
    found = built(batch).logits.double().softmax(dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # cached outputs are rounded to float16


@pytest.mark.parametrize("cache", [True, False])
def test_the_rest_is_a_class_whose_logit_of_the_student_is_0(
    few: Path, teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, cache: bool
) -> None:
    """The objective of the first step, from probabilities in float64."""
    options = {"classes": "rest", "cache": cache}
    loss = {"kd": {"alpha": 0.7, "temperature": 1.0}}
    experiment = Experiment(few_student(few, tmp_path / "s", make_folder, teacher, loss, **options).path, runtime)
    trainer = build_trainer(experiment, build_teacher(experiment, read_teacher_weights(experiment)))
    batch = next(experiment.data.train_batches(0, 16))
    result = trainer.train_step(batch, 0)
    logits = torch.cat([result.output.logits.detach().double(), torch.zeros(16, 1).double()], dim=1)
    log_q, p = logits.log_softmax(dim=1), probabilities(teacher, experiment, batch.images, runtime)
    own = p[:, [NAMES.index(name) for name in FEW]]
    p_rest = torch.cat([own, 1 - own.sum(dim=1, keepdim=True)], dim=1)
    divergence = (p_rest * (p_rest.log() - log_q)).sum(dim=1).mean()
    expected = 0.7 * divergence - 0.3 * log_q[torch.arange(16), batch.labels].mean()
    assert result.loss.item() == pytest.approx(expected.item(), abs=2e-3)
    assert result.output.logits.shape == (16, len(FEW))


def test_other_classes_of_a_teacher_are_refused_unless_params_say_what_to_do(
    few: Path, teacher: Folder, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = few_student(few, tmp_path / "student", make_folder, teacher)
    result = call(train.main, "--model_dir", folder.path, "--device", "cpu")
    assert (result.status, result.err) == (
        2,
        f'error: {folder.params}: teacher: {teacher.name}: the data has no class "d", "e", "f" and 4 more: '
        '"classes" can be "renormalised", or "rest"\n',
    )


def test_fine_classes_teach_coarse_ones_by_a_class_map(
    data: Path, teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    arrays = dict(np.load(data / "named.npz"))
    labels = {key: (arrays[key] >= 4).astype(np.int64) for key in ("train_labels", "test_labels")}
    np.savez(tmp_path / "coarse.npz", **arrays | labels | {"class_names": np.array(["low", "high"])})
    class_map = {name: "high" if number >= 4 else "low" for number, name in enumerate(NAMES)}
    folder = make_folder(
        tmp_path / "student",
        dataset=dataset(tmp_path / "coarse.npz"),
        loss={"kd": {"alpha": 0.9}},
        teacher={"model_dir": str(teacher.path), "class_map": class_map, "cache": False},
    )
    experiment = Experiment(folder.path, runtime)
    built = build_teacher(experiment, read_teacher_weights(experiment))
    assert built is not None
    batch = next(experiment.data.eval_batches("test", 16))
    p_NK = probabilities(teacher, experiment, batch.images, runtime)
    expected = torch.stack([p_NK[:, :4].sum(dim=1), p_NK[:, 4:].sum(dim=1)], dim=1)
    torch.testing.assert_close(built(batch).logits.double().softmax(dim=1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", [{"at": {}, "ce": {}}, {"rkd": {}, "ce": {}}])
def test_a_teacher_of_other_classes_teaches_by_its_features(
    few: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, tiny_data: Path, loss: Any
) -> None:
    other = make_folder(tmp_path / "other", dataset=dataset(tiny_data), student={"name": "resnet8"}, num_epochs=1)
    Experiment(other.path, runtime).train()
    folder = few_student(few, tmp_path / "student", make_folder, other, loss)
    Experiment(folder.path, runtime).train()
    assert "teacher_accuracy" not in folder.read_history()[0]
    refused = few_student(few, tmp_path / "refused", make_folder, other, loss | {"kd": {}})
    with pytest.raises(UserError, match="its classes differ from the data's"):
        Experiment(refused.path, runtime).train()


# A teacher of another resolution -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_a_teacher_sees_the_students_view_at_its_own_resolution(
    data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, cache: bool
) -> None:
    arrays = dict(np.load(data / "named.npz"))
    larger = {
        f"{split}_images": arrays[f"{split}_images"].repeat(2, axis=1).repeat(2, axis=2) for split in ("train", "test")
    }
    np.savez(tmp_path / "larger.npz", **arrays | larger)
    big = make_folder(
        tmp_path / "teacher", dataset=dataset(tmp_path / "larger.npz"), student={"name": "resnet8"}, num_epochs=1
    )
    Experiment(big.path, runtime).train()
    folder = make_folder(
        tmp_path / "student",
        dataset=dataset(data / "named.npz"),
        loss={"kd": {}},
        teacher={"model_dir": str(big.path), "cache": cache},
    )
    experiment = Experiment(folder.path, runtime)
    built = build_teacher(experiment, read_teacher_weights(experiment))
    assert built is not None
    batch = next(experiment.data.train_batches(0, 16))
    height, width = experiment.source.image_shape[1:]
    pixels = F.interpolate(batch.images, (2 * height, 2 * width), mode="bilinear", antialias=True)
    expected = probabilities(big, experiment, pixels, runtime)
    torch.testing.assert_close(built(batch).logits.double().softmax(dim=1), expected, rtol=0, atol=2e-3)
