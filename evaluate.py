"""Look closely at what was trained: accuracy, top-5, loss, what the network costs, and a row for every class.

    python evaluate.py --model_dir experiments/cnn_distill

Prints the tables and writes them under the folder's evaluation/.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from model.params import ROOT
from utils import EXIT_DONE, UserError, load_checkpoint, run_script, write_json, write_text


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate the trained network of a folder.")
    parser.add_argument("--model_dir", type=Path, required=True, help="folder with a trained run")
    parser.add_argument("--split", choices=("test", "val", "train"), default="test")
    parser.add_argument("--restore_file", default="best", help="best (default), last, or the path of a weights file")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data", help="where data sets lie (default: data)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    args = parser.parse_args()

    from model import build
    from model.engine.precision import placed, resolve_precision
    from model.evaluation.metrics import confusion, metrics_of, predictions
    from model.evaluation.tables import markdown, per_class
    from model.folder import Folder
    from model.run import EVAL_BATCH_SIZE, cost_of, open_data

    folder, place = Folder(args.model_dir), build.Place(device=build.find_device(args.device), data_dir=args.data_dir)
    params = build.params_of(folder)
    weights = folder.checkpoint(args.restore_file) if args.restore_file in ("best", "last") else Path(args.restore_file)
    content = load_checkpoint(weights)
    source = build.build_source(params, place)
    net = placed(build.build_student(params, source), place.device)
    build.load_weights(net, content, weights)

    data = open_data(params, folder, source, place)
    if not data.size(args.split):
        raise UserError(f"{folder.params}: the split {args.split} is empty (val_size 0)")
    dtype = resolve_precision(params.precision, place.device)
    batches = data.eval_batches(args.split, EVAL_BATCH_SIZE)
    logits_NK, labels_N = predictions(net, batches, dtype=dtype, device=place.device)

    metrics, confusion_KK = metrics_of(logits_NK, labels_N), confusion(logits_NK, labels_N)
    rows, cost = per_class(confusion_KK, source.class_names), cost_of(params, source)
    own = args.restore_file in ("best", "last")
    chosen = args.restore_file if own else f"{weights.parent.name}_{weights.name.partition('.')[0]}"
    stem = f"{args.split}_{chosen}"
    page = markdown(f"{folder.name}, {args.split} split, {weights.name}", metrics, cost, rows)
    try:
        folder.evaluation.mkdir(exist_ok=True)
        told = metrics | cost._asdict() | {"epoch": content.get("epoch"), "classes": rows}
        write_json(folder.evaluation / f"{stem}.json", told)
        write_text(folder.evaluation / f"{stem}.md", page)
        with (folder.evaluation / f"{stem}_confusion.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["true", *source.class_names]])
            csv.writer(file).writerows(
                [name, *row] for name, row in zip(source.class_names, confusion_KK.tolist(), strict=True)
            )
    except OSError as error:
        raise UserError(f"{folder.evaluation}: cannot write here ({error.strerror})") from None
    print(page)
    print(f"Written to {folder.evaluation}/{stem}.md, .json and _confusion.csv")
    return EXIT_DONE


if __name__ == "__main__":
    run_script(main)
