"""Keeps train.py's protocol (lock, run.json, metrics.jsonl, exit statuses) but trains nothing: a run lasts a moment.

What a run does is told by its student's options: `seconds` an epoch, `outcome` after the first one, `deaf` to signals.
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

    def event(what: str) -> None:
        shown = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        row = {"event": what, "run": folder.name, "process": os.getpid(), "argv": sys.argv}
        with args.events.open("a") as file:
            file.write(json.dumps(row | {name: os.environ.get(name) for name in shown}) + "\n")

    history_file = folder / "metrics.jsonl"
    if args.restart:
        history_file.unlink(missing_ok=True)
    history = history_file.read_text().splitlines() if history_file.exists() else []

    def computed(formula: str) -> float:
        hinton = {"alpha": 0.5, "temperature": 4.0} | params.get("loss", {}).get("kd", {})
        return float(eval(formula, hinton | {"seed": params.get("seed", 0), "epoch": len(history) + 1}))

    def write(name: str, value: Any) -> None:
        (folder / "written.tmp").write_text(json.dumps(value))
        (folder / "written.tmp").replace(folder / name)

    def tell(state: str) -> None:
        num_epochs = params["num_epochs"]
        told = {"state": state, "process": os.getpid(), "host": socket.gethostname(), "epoch": len(history)}
        told |= {"num_epochs": num_epochs, "progress": len(history) / num_epochs, "seconds": 2.0 * len(history)}
        write("run.json", told | ({"macs": computed(student["macs"])} if "macs" in student else {}))

    run_file = folder / "run.json"
    if not args.restart and run_file.exists() and json.loads(run_file.read_text())["state"] == "finished":
        return 0
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: stop.append(number))
    tell("running")
    event("begin")
    while len(history) < params["num_epochs"]:
        end = time.monotonic() + student.get("seconds", 0)
        while time.monotonic() < end and not (stop and not student.get("deaf")):
            time.sleep(0.002)
        if stop and not student.get("deaf"):
            tell("stopped")
            event("stop")
            return 75
        outcome = student.get("outcome", "finish")
        accuracy = float("nan") if outcome == "print NaN" else computed(student.get("accuracy", "alpha"))
        history.append(json.dumps({"epoch": len(history) + 1, "val_accuracy": accuracy, "process": os.getpid()}))
        history_file.write_text("\n".join(history) + "\n")
        tell("running")
        attempts = [row for row in map(json.loads, args.events.read_text().splitlines()) if row["run"] == folder.name]
        if outcome == "fail" or (outcome == "fail once" and len(attempts) == 1):
            print("the first line\nloss is not finite", file=sys.stderr)
            tell("failed")
            event("fail")
            return 1
        if outcome == "refuse":
            print("error: params.json: nonsense", file=sys.stderr)
            return 2
        if outcome == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if outcome == "somebody stops it":
            os.kill(os.getpid(), signal.SIGTERM)
        if outcome == "forget":
            return 0
    for split, value in (("val", accuracy), ("test", accuracy / 2)):
        write(f"metrics_{split}_best_weights.json", {"accuracy": value, "loss": 1.0, "epoch": 1, "num_samples": 10})
    (folder / "best.pth.tar").touch()
    tell("finished")
    event("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
