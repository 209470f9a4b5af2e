"""What a training step is made of: the seconds of its parts, the operations in them, and a processor's peak."""

from __future__ import annotations

import json
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.encode import Encoded
    from router.engine.base import Base

PARTS = ("frozen weights", "LoRA products", "attention", "loss and lm_head", "optimizer and clipping")
REST = "norms, activations, embedding, rest"


def mark() -> tuple[float, int]:
    """The clock in seconds, and the page faults of this process so far."""
    return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def watch(parts: defaultdict[str, float]) -> None:
    """Add the seconds of every part of a step to `parts`; what runs inside another part counts once, as itself."""
    import torch

    from distill import autograd
    from distill import frozen as products

    inside: list[float] = []  # seconds spent in parts within each part under way

    def clocked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            inside.append(0.0)
            begun = time.perf_counter()
            try:
                return call(*args, **named)
            finally:
                took = time.perf_counter() - begun
                parts[name] += took - inside.pop()
                if inside:
                    inside[-1] += took

        return run

    frozen, product, attention, loss, optimizer = PARTS
    for holder, method, name in (
        (products.Frozen, "__call__", frozen),
        (products.Frozen, "back", frozen),
        (products.Frozen8, "__call__", frozen),
        (products.Frozen8, "back", frozen),
        (torch.optim.AdamW, "step", optimizer),
        (torch.nn.utils, "clip_grad_norm_", optimizer),
    ):
        setattr(holder, method, clocked(name, getattr(holder, method)))
    for function, name in (("_Lora", product), ("_Attention", attention), ("_CompletionLoss", loss)):
        for method in ("forward", "backward"):
            kind = getattr(autograd, function)
            setattr(kind, method, staticmethod(clocked(name, getattr(kind, method))))


def peak(threads: int, tries: int) -> dict[str, Any]:
    """The best GFLOP/s in bf16 of large squares and of packed weights, and the cost of a page fault in seconds."""
    import torch

    from distill.frozen import PACKED_FOR
    from router.engine.packed import can_pack, multiply, pack

    torch.set_num_threads(threads)

    def best(operations: float, call: Callable[..., object], *given: torch.Tensor) -> float:
        took = []
        for _ in range(tries):
            begun = time.perf_counter()
            call(*given)
            took.append(time.perf_counter() - begun)
        return operations / min(took) / 1e9

    def some(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, dtype=torch.bfloat16)

    result: dict[str, float] = {}
    for n in (1024, 2048, 4096):
        result[f"torch.mm {n} x {n} x {n}"] = best(2.0 * n**3, torch.mm, some(n, n), some(n, n))
    packs = can_pack(torch.bfloat16, torch.device("cpu"))
    for inside, out in ((896, 4864), (4864, 896), (4096, 4096)) if packs else ():
        packed = pack(some(out, inside), PACKED_FOR)
        name = f"packed {PACKED_FOR} x {inside} x {out}"
        result[name] = best(2.0 * PACKED_FOR * inside * out, multiply, some(PACKED_FOR, inside), packed)
    block = torch.empty(2**26)  # 256 MB, mapped but not yet there
    begun, before = mark()
    block.fill_(1)
    ended, after = mark()
    block.fill_(1)
    again = time.perf_counter() - ended
    fault = max(0.0, ended - begun - again) / max(1, after - before)
    return {"gflops": result, "best_gflops": max(result.values()), "seconds_a_page_fault": fault}


def operations(base: Base, batch: Sequence[Encoded], rank: int) -> dict[str, float]:
    """Multiplications and additions of one step's matrix products, without padding or anything computed twice.

    A frozen weight [out, in]: forward and the gradient of its input, 2 n in out each (the first layer's q, k and v need
    no such gradient). LoRA: three times its forward. Attention: two products forward, four backward, of half a
    square. lm_head: forward and the gradient of the hidden state, where there is loss.
    """
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    hidden, middle, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = size * config["num_attention_heads"], size * config["num_key_value_heads"]
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    first = 2 * hidden * (queries + 2 * keys)
    shapes += [(hidden, middle), (hidden, middle), (middle, hidden)]
    tokens = sum(len(row.ids) for row in batch)
    learnt = sum(len(row.ids) - row.prompt for row in batch)
    frozen = layers * sum(4 * one * other for one, other in shapes) - first
    return {
        PARTS[0]: float(tokens * frozen),
        PARTS[1]: float(tokens * layers * sum(6 * rank * (one + other) for one, other in shapes)),
        PARTS[2]: float(layers * 6 * queries * sum(len(row.ids) ** 2 for row in batch)),
        PARTS[3]: float(learnt * 4 * hidden * config["vocab_size"]),
    }


def table(found: dict[str, Any]) -> str:
    """The result for a terminal."""
    lines = ["                tokens/s   all runs                     peak MiB   last losses"]
    for arm, runs in found["runs"].items():
        raw = " ".join(f"{one['tokens_per_second']:.1f}" for one in runs)
        last = " ".join(f"{loss:.3f}" for loss in runs[-1]["losses"][-4:])
        lines.append(
            f"{arm:<14}{found['tokens_per_second'][arm]:>10.1f}   {raw:<28}{found['peak_mib'][arm]:>9}   {last}"
        )
    for arm, ratio in found["ratio"].items():
        raw = " ".join(f"{one:.2f}" for one in ratio["all"])
        lines.append(f"{arm:<22} {ratio['median']:.2f}   ({raw})")
    step, most = found["step"], found["peak"]
    lines += ["", f"{'a step of ours':<38}seconds   share   GFLOP   of the peak"]
    for name, part in step["parts"].items():
        lines.append(
            f"{name:<38}{part['seconds_a_step']:>7.3f}{part['share']:>8.1%}{part['gflop_a_step']:>8.0f}"
            f"{part['share_of_peak']:>14.1%}"
        )
    lines.append(
        f"{'together':<38}{step['seconds_a_step']:>7.3f}{1:>8.1%}{step['gflop_a_step']:>8.0f}"
        f"{step['share_of_peak']:>14.1%}"
    )
    widest = max(step["parts"], key=lambda name: step["parts"][name]["share"])
    faults = step["page_faults_a_step"] * most["seconds_a_page_fault"]
    lines += [
        f"The peak is {most['best_gflops']:.0f} GFLOP/s; {step['padding']:.1%} of what is read is padding.",
        f"Page faults: {step['page_faults_a_step']:.0f} a step, about {faults:.3f} s, within the parts above.",
        f"Most of a step goes into {widest}: were it at the peak, a step would take "
        f"{1 - step['parts'][widest]['share'] * (1 - step['parts'][widest]['share_of_peak']):.0%} of its time.",
    ]
    whole = found["hundred_examples_three_epochs"]
    how = "by extrapolation" if whole["extrapolated"] else "measured, with loading and saving"
    lines.append(
        f"100 examples x 3 epochs, {whole['tokens']} tokens: {whole['seconds'] / 60:.1f} minutes ({how}) of the "
        f"{whole['asked_seconds'] / 60:.0f} asked."
    )
    return "\n".join(lines) + "\n"
