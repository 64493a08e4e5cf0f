"""Self-distillation against the formula, in NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.losses.self_distillation import SelfDistillation
from model.types import Batch, Output
from tests.losses.reference import cross_entropy, entropy, kl

N, K, D = 6, 5, 4
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
BATCH = Batch(torch.zeros(N, 1, 1, 1), LABELS, torch.arange(N), torch.zeros(N, dtype=torch.long))


def random_tensor(shape: tuple[int, int], seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()


def student() -> Output:
    exits = tuple(Output(random_tensor((N, K), seed), random_tensor((N, D), 10 + seed)) for seed in (1, 2, 3))
    return Output(random_tensor((N, K), 4), random_tensor((N, D), 14), exits=exits)


def value(output: Output, **options: object) -> Tensor:
    loss: Tensor = SelfDistillation(**options)(output, output, BATCH)  # type: ignore[arg-type]
    return loss


def arrays(output: Output) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits and features of all exits, the last one last."""
    outputs = (*output.exits, output)
    return [exit_.logits.detach().numpy() for exit_ in outputs], [exit_.embedding.detach().numpy() for exit_ in outputs]


@pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 3.0), (0.5, 1.0), (1.0, 4.0), (0.0, 3.0)])
def test_value_follows_the_formula(alpha: float, temperature: float) -> None:
    output = student()
    logits, features = arrays(output)
    hard = sum(cross_entropy(exit_NK, LABELS.tolist()) for exit_NK in logits)
    soft = sum(kl(logits[-1], exit_NK, temperature) for exit_NK in logits[:-1])
    distance = sum(((exit_ND - features[-1]) ** 2).mean() for exit_ND in features[:-1])
    expected = (1 - alpha) * hard + alpha * temperature**2 * soft + 0.03 * distance
    actual = value(output, alpha=alpha, temperature=temperature, beta=0.03).item()
    assert actual == pytest.approx(expected, rel=1e-12)


def test_original_sums_squares_and_has_the_entropy_in_its_value() -> None:
    output = student()
    logits, features = arrays(output)
    hard = sum(cross_entropy(exit_NK, LABELS.tolist()) for exit_NK in logits)
    soft = sum(kl(logits[-1], exit_NK, 3) + entropy(logits[-1], 3) for exit_NK in logits[:-1])
    distance = sum(((exit_ND - features[-1]) ** 2).sum() for exit_ND in features[:-1])
    options = {"beta": 1e-6, "feature_reduction": "sum", "divergence": "cross_entropy"}
    assert value(output, **options).item() == pytest.approx(0.9 * hard + 0.1 * 9 * soft + 1e-6 * distance, rel=1e-12)


def test_default_beta_is_the_originals_for_128_images_and_512_features() -> None:
    assert SelfDistillation().beta == pytest.approx(1e-6 * 128 * 512, rel=1e-3)


def test_last_exit_learns_from_the_labels_alone() -> None:
    output = student()
    value(output).backward()  # type: ignore[no-untyped-call]
    hard = random_tensor((N, K), 4)
    (0.9 * torch.nn.functional.cross_entropy(hard, LABELS)).backward()  # type: ignore[no-untyped-call]
    assert output.logits.grad is not None
    assert hard.grad is not None
    torch.testing.assert_close(output.logits.grad, hard.grad)
    assert output.embedding.grad is None


def test_every_exit_learns_from_logits_and_features() -> None:
    output = student()
    value(output).backward()  # type: ignore[no-untyped-call]
    for early in output.exits:
        assert early.logits.grad is not None
        assert early.logits.grad.any()
        assert early.embedding.grad is not None
        assert early.embedding.grad.any()


def test_exits_with_the_last_one_s_output_have_nothing_to_learn_from_it() -> None:
    last = student()
    same = last._replace(exits=(Output(last.logits, last.embedding),) * 3)
    assert value(same, alpha=1.0).item() == pytest.approx(0, abs=1e-12)


def test_beta_of_zero_gives_features_no_gradient() -> None:
    output = student()
    value(output, beta=0.0).backward()  # type: ignore[no-untyped-call]
    assert all(early.embedding.grad is None for early in output.exits)


def test_network_without_exits_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a network with early exits"):
        value(student()._replace(exits=()))


@pytest.mark.parametrize(("option", "wrong"), [("alpha", 1.5), ("alpha", -0.1), ("temperature", 0.0), ("beta", -1.0)])
def test_impossible_values_are_refused(option: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be .*, got {wrong}"):
        SelfDistillation(**{option: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_value_and_gradient_are_finite_in_float32(scale: float) -> None:
    exits = tuple(
        Output((random_tensor((N, K), n) * scale).float(), random_tensor((N, D), n).float()) for n in (1, 2, 3)
    )
    last = (random_tensor((N, K), 4) * scale).float().detach().requires_grad_()
    loss = value(Output(last, random_tensor((N, D), 14).float(), exits=exits))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert last.grad is not None
    assert last.grad.isfinite().all()
