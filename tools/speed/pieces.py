"""What single pieces of a training step cost on a GPU: the choices in keylm's step, each with its alternative.

    python -m tools.speed.pieces [--tokens 32768]

The 75M shape. Prints the median milliseconds of each piece (CUDA events, 30 runs after 5) and what it reaches.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keylm.training.objective import loss_and_grad
from keylm.training.optimizer import orthogonalise
from tools.command import run_script, script_parser

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, LAYERS, VOCABULARY = 512, 8, 2, 64, 1280, 24, 12_020
DEVICE = torch.device("cuda")


def milliseconds(work: Callable[[], Any]) -> float:
    """Return the median time of `work` on the device."""
    for _ in range(5):
        work()
    times = []
    for _ in range(30):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def random(*shape: int) -> Tensor:
    """Return normal numbers in bf16."""
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def product(rows: int, inner: int, columns: int) -> tuple[float, float]:
    """Return milliseconds and TFLOP/s of [rows, inner] @ [columns, inner].T, as a linear layer has it."""
    left, right = random(rows, inner), random(columns, inner)
    spent = milliseconds(lambda: left @ right.T)
    return spent, 2 * rows * inner * columns / spent / 1e9


def products(tokens: int) -> None:
    """Show the model's products, apart and together, and the head's with and without a round number of columns."""
    shapes = {
        "q": (HIDDEN, HEADS * HEAD_DIM),
        "k": (HIDDEN, KV_HEADS * HEAD_DIM),
        "q, k and v": (HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM),
        "gate": (HIDDEN, INNER),
        "gate and up": (HIDDEN, 2 * INNER),
        "down": (INNER, HIDDEN),
        f"head, {VOCABULARY} columns": (HIDDEN, VOCABULARY),
        "head, 12032 columns": (HIDDEN, 12_032),
    }
    for name, (inner, columns) in shapes.items():
        spent, speed = product(tokens, inner, columns)
        print(f"product {name:24} {spent:8.3f} ms  {speed:6.0f} TFLOP/s")


def eight_bits(tokens: int) -> None:
    """Show the up projection in FP8, a scale a row, with the casts it needs, beside bf16."""

    def quantised(tensor: Tensor) -> tuple[Tensor, Tensor]:
        scale = tensor.abs().amax(dim=-1, keepdim=True).float() / 448
        return (tensor / scale).to(torch.float8_e4m3fn), scale

    left, right = random(tokens, HIDDEN), random(2 * INNER, HIDDEN)
    casts = torch.compile(quantised)
    (a, scale_a), (b, scale_b) = casts(left), casts(right)

    def scaled() -> Tensor:
        return torch._scaled_mm(a, b.T, scale_a=scale_a, scale_b=scale_b.T, out_dtype=torch.bfloat16)

    print(f"gate and up in bf16              {milliseconds(lambda: left @ right.T):8.3f} ms")
    print(f"gate and up in FP8               {milliseconds(scaled):8.3f} ms")
    print(f"cast of its input to FP8         {milliseconds(lambda: casts(left)):8.3f} ms")


def optimizer() -> None:
    """Show Newton–Schulz over the gate projections, stacked and one by one."""
    matrices = torch.randn(LAYERS, INNER, HIDDEN, device=DEVICE)
    compiled = torch.compile(orthogonalise)
    print(f"Newton–Schulz, 24 stacked        {milliseconds(lambda: orthogonalise(matrices)):8.3f} ms")
    print(f"Newton–Schulz, 24 compiled       {milliseconds(lambda: compiled(matrices)):8.3f} ms")
    one_by_one = milliseconds(lambda: [orthogonalise(matrix[None]) for matrix in matrices])
    print(f"Newton–Schulz, one by one        {one_by_one:8.3f} ms")


def softmax(rows: int) -> None:
    """Show the head's softmax and its gradient, plain and compiled, beside a copy of the logits."""
    logits, labels = random(rows, 12_032), torch.randint(0, VOCABULARY, (rows,), device=DEVICE)
    compiled = torch.compile(loss_and_grad, dynamic=False)
    spent = milliseconds(lambda: loss_and_grad(logits, labels, 1e-4, VOCABULARY))
    print(f"softmax and gradient of {rows} rows, plain    {spent:8.3f} ms")
    spent = milliseconds(lambda: compiled(logits, labels, 1e-4, VOCABULARY))
    print(f"softmax and gradient of {rows} rows, compiled {spent:8.3f} ms")
    copied = milliseconds(logits.clone)
    print(f"copy of those logits             {copied:8.3f} ms  {4 * logits.numel() / copied / 1e9:6.2f} TB/s")


def swiglu(tokens: int) -> None:
    """Show SwiGLU's element-wise part forward and backward, compiled."""
    both, grad = random(tokens, 2 * INNER).requires_grad_(), random(tokens, INNER)

    def gated(both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up

    compiled = torch.compile(gated)

    def work() -> None:
        both.grad = None
        compiled(both).backward(grad)

    spent = milliseconds(work)
    moved = 2 * tokens * INNER * (2 + 1 + 1 + 2 + 2)
    print(f"SwiGLU, both ways                {spent:8.3f} ms  {moved / spent / 1e9:6.2f} TB/s")


def main() -> None:
    """Measure from the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=32_768, help="of a micro-batch")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.tokens} tokens")
    products(arguments.tokens)
    eight_bits(arguments.tokens)
    softmax(8192)
    swiglu(arguments.tokens)
    optimizer()


if __name__ == "__main__":
    run_script(main)
