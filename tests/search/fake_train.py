"""Follows train.py's protocol (lock, run.json, metrics.jsonl, exit statuses) but trains nothing: a run takes a moment.

The student's options control a run: `seconds` per epoch, `outcome` after the first one, `deaf` to signals.
`accuracy` and `macs` are formulas of alpha, temperature, seed and epoch.
"""

import argparse
import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", type=Path, required=True)
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--events", type=Path, required=True)
    args = parser.parse_args()
    folder: Path = args.model_dir
    params = json.loads((folder / "params.json").read_text())
    student: dict[str, Any] = params["student"]

    lock = (folder / ".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("error: another process works in this folder", file=sys.stderr)
        return 2

    def log_event(kind: str) -> None:
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        row = {"event": kind, "run": folder.name, "process": os.getpid(), "argv": sys.argv}
        with args.events.open("a") as file:
            file.write(json.dumps(row | {name: os.environ.get(name) for name in variables}) + "\n")

    history_file = folder / "metrics.jsonl"
    if args.restart:
        history_file.unlink(missing_ok=True)
    history = history_file.read_text().splitlines() if history_file.exists() else []

    def evaluate(formula: str) -> float:
        options = {"alpha": 0.5, "temperature": 4.0} | params.get("loss", {}).get("kd", {})
        return float(eval(formula, options | {"seed": params.get("seed", 0), "epoch": len(history) + 1}))

    def write(name: str, value: Any) -> None:
        (folder / "written.tmp").write_text(json.dumps(value))
        (folder / "written.tmp").replace(folder / name)

    def write_state(state: str) -> None:
        num_epochs = params["num_epochs"]
        run = {"state": state, "process": os.getpid(), "host": socket.gethostname(), "epoch": len(history)}
        run |= {"num_epochs": num_epochs, "progress": len(history) / num_epochs, "seconds": 2.0 * len(history)}
        write("run.json", run | ({"macs": evaluate(student["macs"])} if "macs" in student else {}))

    run_file = folder / "run.json"
    try:
        if not args.restart and run_file.exists() and json.loads(run_file.read_text())["state"] == "finished":
            return 0
    except ValueError:  # a damaged one
        history.clear()
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: stop.append(number))
    write_state("running")
    log_event("begin")
    while len(history) < params["num_epochs"]:
        end = time.monotonic() + student.get("seconds", 0)
        while time.monotonic() < end and not (stop and not student.get("deaf")):
            time.sleep(0.002)
        if stop and not student.get("deaf"):
            write_state("stopped")
            log_event("stop")
            return 75
        outcome = student.get("outcome", "finish")
        accuracy = float("nan") if outcome == "print NaN" else evaluate(student.get("accuracy", "alpha"))
        history.append(json.dumps({"epoch": len(history) + 1, "val_accuracy": accuracy, "process": os.getpid()}))
        history_file.write_text("\n".join(history) + "\n")
        write_state("running")
        attempts = [row for row in map(json.loads, args.events.read_text().splitlines()) if row["run"] == folder.name]
        if outcome == "fail" or (outcome == "fail once" and len(attempts) == 1):
            print("the first line\nloss is not finite", file=sys.stderr)
            write_state("failed")
            log_event("fail")
            return 1
        if outcome == "refuse":
            print("error: params.json: nonsense", file=sys.stderr)
            return 2
        if outcome == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if outcome == "stopped from outside":
            os.kill(os.getpid(), signal.SIGTERM)
        if outcome == "forget":
            return 0
    for split, value in (("val", accuracy), ("test", accuracy / 2)):
        write(f"metrics_{split}_best_weights.json", {"accuracy": value, "loss": 1.0, "epoch": 1, "num_samples": 10})
    (folder / "best.pth.tar").touch()
    write_state("finished")
    log_event("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
