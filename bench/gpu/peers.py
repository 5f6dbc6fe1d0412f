#!/usr/bin/env python3
"""PyTorch's own operators at the sizes of noema-bench, on the GPU of this machine.

Prints lines "case<TAB>best seconds" for noema-bench --peers, and the machine's ceilings ("@flops bf16", "@flops f32", "@bytes", per second).
Needs PyTorch with CUDA; says so and exits with 3 where it is missing. Times are of CUDA graphs that hold many calls, as ours are.
"""

import argparse
import re
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("no PyTorch here: no peer figures")
if not torch.cuda.is_available():
    sys.exit("PyTorch sees no GPU: no peer figures")

# Everything runs on this stream: a gradient is computed on the stream of its forward pass, so one that is to be captured may not have been on
# the default stream, which no capture may wait for.
STREAM = torch.cuda.Stream()
BF16, F32 = torch.bfloat16, torch.float32
torch.backends.cuda.matmul.allow_tf32 = False


def best(call, calls, slices=15):
    """Seconds per call: the best of some replays of a graph of `calls` calls."""
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=STREAM):
        for _ in range(calls):
            call()
    times = []
    for _ in range(slices):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return min(times)


def say(name, seconds):
    print(f"{name}\t{seconds:.6e}", flush=True)


def attempt(measure, *arguments):
    """What this version of PyTorch or this device cannot do costs its own figures alone."""
    try:
        measure(*arguments)
    except Exception as error:  # whatever it is: the others are still wanted
        print(f"{measure.__name__}{arguments}: {error}", file=sys.stderr, flush=True)


def randn(*shape, dtype=BF16, grad=False):
    return torch.randn(*shape, dtype=dtype, device="cuda", requires_grad=grad)


def ceilings():
    for name, dtype, n in (("@flops bf16", BF16, 8192), ("@flops f32", F32, 4096)):
        a, b = randn(n, n, dtype=dtype), randn(n, n, dtype=dtype)
        say(name, 2.0 * n**3 / best(lambda: a @ b, 4))
    source = randn(1 << 28, dtype=F32)
    target = torch.empty_like(source)
    say("@bytes", 2.0 * source.numel() * 4 / best(lambda: target.copy_(source), 4))


def attention(B, H, Hkv, Tq, Tk, D, dtype, causal=False):
    q, k, v = randn(B, H, Tq, D, dtype=dtype), randn(B, Hkv, Tk, D, dtype=dtype), randn(B, Hkv, Tk, D, dtype=dtype)
    grouped = {"enable_gqa": True} if H != Hkv else {}
    heads = f"{H}:{Hkv}" if H != Hkv else f"{H}"
    length = f"{Tq}" if Tq == Tk else f"{Tq}:{Tk}"
    name = f"{'bf16' if dtype == BF16 else 'f32'} B{B} H{heads} T{length} D{D}{' causal' if causal else ''}"
    offset = causal and Tq == Tk
    say(f"attention/{name}", best(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=offset, **grouped), 20))
    if Tq != Tk:
        return
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=offset, **grouped)
    d = torch.randn_like(out)
    say(
        f"attention_backward/{name}",
        best(lambda: torch.autograd.grad(out, (q, k, v), d, retain_graph=True), 10),
    )


def products(cases):
    for case in cases:
        found = re.match(r"matmul/(f32|bf16) (NT|NN|TN) (\d+)x(\d+)x(\d+)(.*)$", case)
        if found:
            attempt(product, case, *found.groups())


def product(case, label, form, M, N, K, rest):
    M, N, K, dtype = int(M), int(N), int(K), BF16 if label == "bf16" else F32
    a = randn(K, M, dtype=dtype).T if form == "TN" else randn(M, K, dtype=dtype)
    b = randn(N, K, dtype=dtype).T if form == "NT" else randn(K, N, dtype=dtype)
    gelu = "gelu" in rest
    say(case, best(lambda: F.gelu(a @ b, approximate="tanh") if gelu else a @ b, 50))


def head(R, C, V, dtype=BF16):
    hidden, weight = randn(R, C, dtype=dtype, grad=True), randn(V, C, dtype=dtype, grad=True)
    targets = torch.randint(V, (R,), device="cuda")
    label = "bf16" if dtype == BF16 else "f32"
    say(f"row_stats/top-8 {label} {R}x{C}x{V} packed", best(lambda: torch.topk(hidden.detach() @ weight.detach().T, 8), 5))
    loss = lambda: F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    with torch.no_grad():
        say(f"cross_entropy/loss {label} {R}x{C}x{V} packed", best(loss, 5))
    say(f"cross_entropy/gradients {label} {R}x{C}x{V}", best(lambda: torch.autograd.grad(loss().sum(), (hidden, weight)), 3))


class Block(torch.nn.Module):
    def __init__(self, C, H, inner):
        super().__init__()
        self.H = H
        self.norm1, self.norm2 = torch.nn.RMSNorm(C), torch.nn.RMSNorm(C)
        self.qkv, self.o = torch.nn.Linear(C, 3 * C, bias=False), torch.nn.Linear(C, C, bias=False)
        self.gate_up, self.down = torch.nn.Linear(C, 2 * inner, bias=False), torch.nn.Linear(inner, C, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, C))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Network(torch.nn.Module):
    """Of the same shapes as noema's masked model (without rotary embedding, which only makes it faster)."""

    def __init__(self, V, C, layers, H, inner):
        super().__init__()
        self.embed = torch.nn.Embedding(V, C)
        self.blocks = torch.nn.Sequential(*(Block(C, H, inner) for _ in range(layers)))
        self.norm, self.head = torch.nn.RMSNorm(C), torch.nn.Linear(C, V, bias=False)

    def forward(self, ids):
        return self.norm(self.blocks(self.embed(ids)))


def masked(label, V, C, layers, H, inner, B, T):
    network = Network(V, C, layers, H, inner).cuda().to(BF16)
    one = torch.randint(V, (1, T), device="cuda")
    rows = torch.arange(0, T, 2, device="cuda")

    def decode():
        with torch.no_grad():
            logits = network.head(network(one)[0, rows]).float()
            (logits + torch.empty_like(logits).exponential_().log_().neg_()).argmax(-1)

    say(f"masked/decode step {label} B1 T{T}", best(decode, 3))
    ids = torch.randint(V, (B, T), device="cuda")
    rows = torch.arange(0, B * T, 2, device="cuda")
    targets = torch.randint(V, (rows.numel(),), device="cuda")
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True, capturable=True)

    def train():
        hidden = network(ids).view(B * T, C)[rows]
        F.cross_entropy(network.head(hidden).float(), targets).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)

    say(f"masked/train step {label} B{B} T{T}", best(train, 1, slices=10))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", help="a file with the names that noema-bench --list prints")
    with open(parser.parse_args().cases, encoding="utf8") as file:
        cases = file.read().splitlines()
    with torch.cuda.stream(STREAM):
        measure_all(cases)


def measure_all(cases):
    # First what is most asked for: this may be stopped early.
    attempt(ceilings)
    attempt(masked, "7M", 4096, 256, 8, 4, 704, 32, 256)
    attempt(masked, "170M", 50258, 768, 12, 12, 3072, 8, 1024)
    for dtype in (BF16, F32):
        attempt(attention, 16, 12, 12, 1024, 1024, 64, dtype)
        attempt(attention, 1, 32, 32, 1024, 1024, 128, dtype)
        attempt(attention, 64, 12, 12, 256, 256, 64, dtype)
        attempt(attention, 8, 8, 8, 256, 256, 32, dtype)
        attempt(attention, 1, 32, 8, 512, 512, 128, dtype)
        attempt(attention, 8, 8, 8, 1024, 1024, 64, dtype, True)
        attempt(attention, 1, 32, 8, 32, 2048, 128, dtype)
        attempt(attention, 1, 32, 8, 1, 2048, 128, dtype, True)
    attempt(head, 1024, 768, 50258)
    attempt(head, 2048, 384, 4096)
    products(cases)


main()
