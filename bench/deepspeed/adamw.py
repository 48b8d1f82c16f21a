"""Measures how many elements a second AdamW updates: DeepSpeed's and torch's, on one thread, for the job that
zerospan's update does. Of bf16 that is a gradient that is widened, and a parameter that is rounded from its master
weight. Writes a JSON list of name and elements_per_second.
"""

import argparse
import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.ops.op_builder.cpu import CPUAdamBuilder
from deepspeed.ops.op_builder.cpu.builder import CPUOpBuilder

CPUAdamBuilder.cxx_args = lambda builder: CPUOpBuilder.cxx_args(builder) + ["-std=c++17"]  # see train.py

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}


def deepspeed(parameter):
    return DeepSpeedCPUAdam([parameter], adamw_mode=True, **SETTINGS)


def pytorch(parameter):
    return torch.optim.AdamW([parameter], foreach=False, **SETTINGS)


def rate(make, precision, elements, repetitions):
    """The median, in elements a second."""
    master = torch.nn.Parameter(torch.randn(elements))
    gradient = torch.randn(elements)
    if precision == "bf16":
        gradient = gradient.to(torch.bfloat16)
        narrow = master.detach().to(torch.bfloat16)
    master.grad = torch.zeros(elements)
    optimizer = make(master)

    def update():
        if precision == "bf16":
            master.grad.copy_(gradient)
        optimizer.step()
        if precision == "bf16":
            narrow.copy_(master.detach())

    if precision == "fp32":
        master.grad = gradient
    seconds = []
    for _ in range(repetitions + 1):
        begin = time.monotonic()
        update()
        seconds.append(time.monotonic() - begin)
    return elements / statistics.median(seconds[1:])  # the first makes the states


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=31128 * 1024)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", required=True, help="the JSON file to write")
    told = parser.parse_args()
    torch.set_num_threads(1)
    rates = [{
        "name": f"{name}/{precision}",
        "elements_per_second": rate(make, precision, told.elements, told.repetitions)
    } for name, make in (("deepspeed", deepspeed), ("torch", pytorch)) for precision in ("bf16", "fp32")]
    pathlib.Path(told.output).write_text(json.dumps(rates) + "\n")


if __name__ == "__main__":
    main()
