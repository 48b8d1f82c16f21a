"""Trains the GPT of examples/train_gpt by DeepSpeed's ZeRO-3, parameters and optimizer offloaded to disk.

Each rank is a process. Shapes, data, learning rates and clipping are train_gpt's, and so is the arithmetic: weights
rest in the type of --precision, and activations are fp32. Products with weights are of --products: in fp32 weights are
widened before, in bf16 activations are rounded. Rank 0 writes what it measured as JSON.
"""

import argparse
import ctypes
import json
import math
import os
import pathlib
import statistics
import time

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.distributed as distributed
import torch.multiprocessing
import torch.nn.functional as functional

VOCABULARY = 256


class LastOf:
    """The handle of several operations that were begun together."""

    def __init__(self, handles, then=None):
        self.handles = handles
        self.then = then

    def wait(self, *_):
        for handle in self.handles:
            handle.wait()
        if self.then is not None:
            self.then()
            self.then = None
        return True

    def is_completed(self):
        return all(handle.is_completed() for handle in self.handles)


def as_transported(tensor):
    """The same bytes in a type that gloo knows: of bfloat16 it knows nothing."""
    return tensor.view(torch.float16) if tensor.dtype == torch.bfloat16 else tensor


def complete_gloo():
    """Gives torch.distributed what DeepSpeed calls and gloo has not got in this version of torch: gathers into one
    tensor, scattered sums, and bfloat16. Each rank sends and receives as many bytes as these must move, and none are
    copied more than once."""
    broadcast = distributed.broadcast

    def wrapped_broadcast(tensor, src, group=None, async_op=False):
        return broadcast(as_transported(tensor), src, group=group, async_op=async_op)

    def all_gather_into_tensor(output_tensor, input_tensor, group=None, async_op=False):
        parts = output_tensor.view(-1).chunk(distributed.get_world_size(group))
        own = parts[distributed.get_rank(group)]
        if own.data_ptr() != input_tensor.data_ptr():
            own.copy_(input_tensor.view(-1))
        handle = LastOf([
            broadcast(as_transported(part), rank, group=group, async_op=True) for rank, part in enumerate(parts)
        ])
        return handle if async_op else (handle.wait(), None)[1]

    def reduce_scatter_tensor(output, input, op=distributed.ReduceOp.SUM, group=None, async_op=False):
        if op != distributed.ReduceOp.SUM:
            raise NotImplementedError(f"a scattered reduction by {op}")
        received = torch.empty_like(input).view(-1)
        handle = distributed.all_to_all_single(
            as_transported(received), as_transported(input.contiguous().view(-1)), group=group, async_op=True)

        def add():
            parts = received.chunk(distributed.get_world_size(group))
            output.view(-1).copy_(parts[0])
            for part in parts[1:]:
                output.view(-1).add_(part)

        handle = LastOf([handle], add)
        return handle if async_op else (handle.wait(), None)[1]

    distributed.broadcast = wrapped_broadcast
    distributed.all_gather_into_tensor = all_gather_into_tensor
    distributed._all_gather_base = all_gather_into_tensor
    distributed.reduce_scatter_tensor = reduce_scatter_tensor
    distributed._reduce_scatter_base = reduce_scatter_tensor


complete_gloo()

import deepspeed
from deepspeed.ops.op_builder.cpu import AsyncIOBuilder, CPUAdamBuilder
from deepspeed.ops.op_builder.cpu.builder import CPUOpBuilder
from deepspeed.runtime.swap_tensor.partitioned_param_swapper import AsyncPartitionedParameterSwapper

# With a torch of before 2.1, DeepSpeed removes an argument that is not there, and compiles C++17 as C++14.
AsyncIOBuilder.cxx_args = lambda builder: CPUOpBuilder.cxx_args(builder) + ["-Wall", "-O0", "-shared", "-fPIC"]
CPUAdamBuilder.cxx_args = lambda builder: CPUOpBuilder.cxx_args(builder) + ["-std=c++17"]


class TransferMemory:
    """Memory for transfers on an accelerator that is the CPU. It begins at a page: disks read and write it directly.
    torch pins memory for GPUs alone, without which DeepSpeed refuses to swap."""

    page = 4096

    def __init__(self):
        self.ranges = []

    def pin(self, tensor, *_, **__):
        bytes = tensor.numel() * tensor.element_size()
        memory = torch.empty(bytes + self.page, dtype=torch.uint8)
        first = -memory.data_ptr() % self.page
        aligned = memory[first:first + bytes].view(tensor.dtype).view(tensor.shape)
        aligned.copy_(tensor)
        self.ranges.append((aligned.data_ptr(), aligned.data_ptr() + bytes, memory))
        return aligned

    def is_pinned(self, tensor):
        return any(begin <= tensor.data_ptr() < end for begin, end, _ in self.ranges)


transfer_memory = TransferMemory()
accelerator = deepspeed.accelerator.get_accelerator()
accelerator.pin_memory = transfer_memory.pin
accelerator.is_pinned = transfer_memory.is_pinned


swap_in = AsyncPartitionedParameterSwapper.swap_in


def swap_in_once(swapper, parameters, *rest, **named):
    """Around the turn from forward to backward, DeepSpeed prefetches a parameter twice at once, and fails."""
    return swap_in(swapper, list(dict.fromkeys(parameters)), *rest, **named)


AsyncPartitionedParameterSwapper.swap_in = swap_in_once


class Product(torch.autograd.Function):
    """y = x W^T + b. The widened weight is not kept: backward gathers the weight again, and widens it again."""

    factors = torch.float32

    @staticmethod
    def forward(context, x, weight, bias):
        x = x.to(Product.factors)
        context.save_for_backward(x, weight)
        context.bias_type = None if bias is None else bias.dtype
        factor = weight.detach().to(Product.factors).t()
        if bias is None or Product.factors != torch.float32:
            y = (x @ factor).float()
            return y if bias is None else y.add_(bias.detach().float())
        return torch.addmm(bias.detach().float(), x, factor)

    @staticmethod
    def backward(context, dy):
        x, weight = context.saved_tensors
        factor = dy.to(Product.factors)
        dx = (factor @ weight.detach().to(Product.factors)).float()
        dweight = (factor.t() @ x).to(weight.dtype)
        dbias = None if context.bias_type is None else dy.sum(0).to(context.bias_type)
        return dx, dweight, dbias


def normal(*shape, deviation):
    return torch.nn.Parameter(torch.randn(*shape) * deviation)


class Linear(torch.nn.Module):

    def __init__(self, inputs, outputs, deviation):
        super().__init__()
        self.weight = normal(outputs, inputs, deviation=deviation)
        self.bias = torch.nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return Product.apply(x, self.weight, self.bias)


class Norm(torch.nn.Module):

    def __init__(self, width):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(width))
        self.bias = torch.nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return functional.layer_norm(x, (x.shape[-1], ), self.weight.float(), self.bias.float())


class Block(torch.nn.Module):

    def __init__(self, width, heads, deviation, residual_deviation):
        super().__init__()
        self.heads = heads
        self.norm1 = Norm(width)
        self.qkv = Linear(width, 3 * width, deviation)
        self.projection = Linear(width, width, residual_deviation)
        self.norm2 = Norm(width)
        self.up = Linear(width, 4 * width, deviation)
        self.down = Linear(4 * width, width, residual_deviation)

    def attend(self, qkv, sequences, mask):
        rows, width = qkv.shape[0], qkv.shape[1] // 3
        split = qkv.view(sequences, rows // sequences, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).flatten(1, 2)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=1 / math.sqrt(width / self.heads))
        attended = torch.bmm(torch.softmax(scores, -1), value)
        return attended.view(sequences, self.heads, -1, width // self.heads).transpose(1, 2).reshape(rows, width)

    def forward(self, x, sequences, mask):
        x = x + self.projection(self.attend(self.qkv(self.norm1(x)), sequences, mask))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Embedding(torch.nn.Module):

    def __init__(self, context, width, deviation):
        super().__init__()
        self.token = normal(VOCABULARY, width, deviation=deviation)
        self.position = normal(context, width, deviation=deviation)

    def forward(self, tokens):
        return (functional.embedding(tokens, self.token).float() +
                self.position[:tokens.shape[1]].float()).flatten(0, 1)


class Head(torch.nn.Module):
    """The products with the token embedding, to which it is tied."""

    def __init__(self, token):
        super().__init__()
        self.weight = token

    def forward(self, x):
        return Product.apply(x, self.weight, None)


class Gpt(torch.nn.Module):

    def __init__(self, layers, heads, width, context):
        super().__init__()
        deviation = 0.02
        self.embedding = Embedding(context, width, deviation)
        self.blocks = torch.nn.ModuleList(
            Block(width, heads, deviation, deviation / math.sqrt(2 * layers)) for _ in range(layers))
        self.norm = Norm(width)
        self.head = Head(self.embedding.token)

    def forward(self, tokens, targets):
        sequences, length = tokens.shape
        mask = torch.full((1, length, length), -math.inf).triu(1)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, sequences, mask)
        return functional.cross_entropy(self.head(self.norm(x)), targets.flatten())


def source_text(root):
    """The text that train_gpt learns where it is given none, and of that the nine tenths that train."""
    files = [
        path for folder in ("include", "tests") for path in (root / folder).rglob("*")
        if path.is_file() and path.suffix in (".hpp", ".cpp")
    ]
    files = sorted(files + [root / "README.md"])
    text = b"".join(path.read_bytes() for path in files)
    return torch.frombuffer(bytearray(text[:len(text) * 9 // 10]), dtype=torch.uint8)


def learning_rate(step):
    """train_gpt's warm-up: a run is not longer."""
    return 4e-3 * (step + 1) / 41


def settings(options, directory, largest):
    """What DeepSpeed is told. `largest` is a rank's share of the largest parameter, in elements."""
    return {
        "train_micro_batch_size_per_gpu": options.batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "steps_per_print": 1000000,
        "bf16": {"enabled": options.precision == "bf16"},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": learning_rate(0), "betas": [0.9, 0.99], "weight_decay": 0.1}
        },
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "sub_group_size": options.sub_group,
            "offload_param": {
                "device": "nvme",
                "nvme_path": directory,
                "pin_memory": True,
                # It prefetches until no buffer is free, and fails where one is needed then: each matrix has one.
                "buffer_count": 4 * options.layers + 8,
                "buffer_size": largest,
                "max_in_cpu": 0,
            },
            "offload_optimizer": {
                "device": "nvme",
                "nvme_path": directory,
                "pin_memory": True,
                "buffer_count": options.optimizer_buffers,
                "pipeline_read": options.pipeline == "on",
                "pipeline_write": options.pipeline == "on",
                "fast_init": False,
            },
        },
        "aio": {
            "block_size": 1 << 20,
            "queue_depth": 32,
            "thread_count": 1,
            "single_submit": False,
            "overlap_events": True,
        },
    }


def blas():
    """The library of torch's matrix products, and what it calls its kernels."""
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    for path in sorted({line.split()[-1] for line in lines if "blas" in line}):
        library = ctypes.CDLL(path)
        if hasattr(library, "openblas_get_corename"):
            library.openblas_get_corename.restype = ctypes.c_char_p
            return "OpenBLAS", library.openblas_get_corename().decode()
    return "no OpenBLAS", "?"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ranks", type=int, required=True)
    add("--layers", type=int, required=True)
    add("--heads", type=int, required=True)
    add("--width", type=int, required=True)
    add("--context", type=int, required=True)
    add("--batch", type=int, required=True, help="sequences of a rank in a step")
    add("--steps", type=int, required=True)
    add("--precision", choices=["bf16", "fp32"], required=True)
    add("--products", choices=["bf16", "fp32"], default="fp32")
    add("--directory", required=True, help="where parameters and optimizer states rest")
    add("--output", required=True, help="the JSON file to write")
    add("--sub-group", type=int, default=4_000_000, help="elements of a rank that are updated at once")
    add("--optimizer-buffers", type=int, default=16)
    add("--pipeline", choices=["on", "off"], default="on", help="whether reads, updates and writes overlap")
    return parser.parse_args()


def train(rank, options):
    ranks = options.ranks
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_SIZE=str(ranks))
    meeting = pathlib.Path(options.directory).resolve() / "ranks"
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    deepspeed.init_distributed(dist_backend="gloo")
    torch.manual_seed(1337)
    if options.products == "bf16":
        Product.factors = torch.bfloat16
    largest = 4 * options.width * options.width // ranks + 4096
    configuration = settings(options, options.directory, largest)
    with deepspeed.zero.Init(config_dict_or_path=configuration):
        model = Gpt(options.layers, options.heads, options.width, options.context)
    matrices = [p for p in model.parameters() if len(p.ds_shape) > 1]
    vectors = [p for p in model.parameters() if len(p.ds_shape) == 1]
    parameters = sum(p.ds_numel for p in matrices + vectors)
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        model_parameters=[{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        config=configuration)

    text = source_text(pathlib.Path(__file__).resolve().parents[2]).long()
    draws = torch.Generator().manual_seed(rank)
    seconds, losses = [], []
    for step in range(options.steps):
        first = torch.randint(len(text) - options.context - 1, (options.batch, 1), generator=draws)
        windows = text[first + torch.arange(options.context + 1)]
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step)
        begin = time.monotonic()
        loss = engine(windows[:, :-1], windows[:, 1:])
        engine.backward(loss)
        engine.step()
        seconds.append(time.monotonic() - begin)
        losses.append(loss.item())
        if rank == 0:
            print(f"step {step + 1}/{options.steps}  loss {losses[-1]:.4f}  {seconds[-1]:.3f} s", flush=True)

    if rank == 0:
        library, kernels = blas()
        # The first two steps find out in which order parameters are used.
        median = statistics.median(seconds[2:])
        result = {
            "parameters": parameters,
            "tokens_per_second": ranks * options.batch * options.context / median,
            "seconds": seconds,
            "losses": losses,
            "deepspeed": deepspeed.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "matrix_library": library,
            "matrix_kernels": kernels,
            "products": options.products,
            "bytes_on_disk": sum(p.stat().st_size for p in pathlib.Path(options.directory).rglob("*") if p.is_file()),
        }
        pathlib.Path(options.output).write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    told = parse()
    torch.multiprocessing.spawn(train, args=(told, ), nprocs=told.ranks)
