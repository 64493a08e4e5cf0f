"""A script ends in one line and an exit status."""

from __future__ import annotations

import pytest

from model.cli import run_script
from model.errors import OptionError, RunFailed, Stopped, UserError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("params.json: x"), 2, "error: params.json: x\n"),
        (OptionError("alpha", "must be below 1").with_parent("loss.kd"), 2, "error: loss.kd.alpha: must be below 1\n"),
        (RunFailed("the loss is not finite"), 1, "failed: the loss is not finite\n"),
        (Stopped("saved at step 3"), 75, "stopped: saved at step 3\n"),
        (KeyboardInterrupt(), 75, "stopped: run the same command to go on\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_scripts_end_in_one_line_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert (ended.value.code, capsys.readouterr().err) == (status, message)
