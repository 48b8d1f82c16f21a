"""What bench/deepspeed.sh has measured: a line a round, and the table in the end.

A run of train_gpt has left zerospan.<precision>.<round>.jsonl in the folder of results, and one of DeepSpeed
deepspeed.<precision>.<round>.json. Updates alone are in zerospan_adamw.<round>.json, a report of Google Benchmark, and
adamw.<round>.json.
"""

import json
import pathlib
import statistics
import sys


class Run:
    """What one run of train_gpt, or of DeepSpeed, has told."""

    def __init__(self, parameters, tokens_per_second, products):
        self.parameters = parameters
        self.tokens_per_second = tokens_per_second
        self.products = products


def read_zerospan(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    final = next(line for line in lines if "parameters" in line)
    # The first two steps find out in which order parameters are used; the last waits for updates that hide behind none.
    rates = [step["tokens_per_second"] for step in steps[2:-1]]
    products = f"{steps[0]['matrix_library']}, kernels for {steps[0].get('matrix_kernels', '?')}"
    if "bf16_products" in steps[0]:
        products += f"; weights by {steps[0]['bf16_products']}"
    return Run(final["parameters"], statistics.median(rates), products)


def read_deepspeed(path):
    told = json.loads(path.read_text())
    products = (f"{told['matrix_library']}, kernels for {told['matrix_kernels']}; weights in {told['products']}; "
                f"torch {told['torch']}, DeepSpeed {told['deepspeed']}")
    return Run(told["parameters"], told["tokens_per_second"], products)


def read_round(results, name):
    """The two runs of a round. Ends the program if they are not of the same model."""
    ours = read_zerospan(results / f"zerospan.{name}.jsonl")
    theirs = read_deepspeed(results / f"deepspeed.{name}.json")
    if ours.parameters != theirs.parameters:
        sys.exit(f"{name}: train_gpt has {ours.parameters} parameters, DeepSpeed {theirs.parameters}")
    return ours, theirs


def show_round(results, name):
    ours, theirs = read_round(results, name)
    print(f"{name}: train_gpt {ours.tokens_per_second:.1f} tokens/s, DeepSpeed {theirs.tokens_per_second:.1f}: "
          f"{ours.tokens_per_second / theirs.tokens_per_second:.2f}", flush=True)


def updates(results):
    """Elements that AdamW updates in a second, beside DeepSpeed's and torch's: medians over the rounds."""
    ours, theirs = {}, {}
    for path in results.glob("adamw.*.json"):
        for row in json.loads(path.read_text()):
            theirs.setdefault(row["name"], []).append(row["elements_per_second"])
    for path in results.glob("zerospan_adamw.*.json"):
        for row in json.loads(path.read_text())["benchmarks"]:
            if row["run_type"] != "iteration":
                continue
            precision = row["run_name"].split("/")[1]
            ours.setdefault(precision, []).append(row["elements"])
    return [{
        "name": f"{library}/adamw/{precision}",
        "unit": "elements_per_second",
        "ours": statistics.median(ours[precision]),
        "baseline": statistics.median(theirs[f"{library}/{precision}"]),
    } for library in ("deepspeed", "torch") for precision in ("bf16", "fp32")]


def write_table(results, precisions):
    """Writes the measurements and their goals for `ratios`."""
    measurements = updates(results)
    for precision in precisions:
        rounds = [path.name.split(".")[2] for path in results.glob(f"deepspeed.{precision}.*.json")]
        runs = [read_round(results, f"{precision}.{number}") for number in rounds]
        ours, theirs = runs[0]
        print(f"{precision}: {ours.parameters} parameters")
        print(f"  train_gpt: {ours.products}\n  DeepSpeed: {theirs.products}")
        measurements.append({
            "name": f"deepspeed/nvme/{precision}",
            "unit": "tokens_per_second",
            "ours": statistics.median(run.tokens_per_second for run, _ in runs),
            "baseline": statistics.median(run.tokens_per_second for _, run in runs),
        })
    (results / "measurements.json").write_text(json.dumps(measurements))
    goals = json.loads((pathlib.Path(__file__).parent / "goals.json").read_text())
    names = {measurement["name"] for measurement in measurements}
    (results / "goals.json").write_text(json.dumps([goal for goal in goals if goal["name"] in names]))


def main():
    what, results, *rest = sys.argv[1:]
    if what == "kernels":
        first = json.loads(pathlib.Path(results).read_text().splitlines()[0])
        print(first.get("matrix_kernels", ""), "bf16" if "bf16_products" in first else "fp32")
    elif what == "round":
        show_round(pathlib.Path(results), *rest)
    else:
        write_table(pathlib.Path(results), rest)


if __name__ == "__main__":
    main()
