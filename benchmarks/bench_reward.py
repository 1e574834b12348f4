"""Rewards: Token Hidden Reward and influence of a group of 16 on the bundled model.

Run alone: ``python -m benchmarks.bench_reward [--quick]``. All in one process, one thread, CPU
seconds, the best of a few repeats. THR is timed from hidden states on; its rival takes the gradient
of one token at a time. A forward pass of the group is one batch of 16, without gradients.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.bench_critical import SAMPLER, bundled, row, threads
from engine.answers import check
from engine.encode import trace_from_ids
from engine.gallery import gallery
from engine.loaded import LoadedModel
from engine.reward.grpo import advantages
from engine.reward.headstep import log_probs
from engine.reward.influence import influence
from engine.reward.lasthead import Head, Rows, read_rows
from engine.reward.network import Network
from engine.reward.scored import Scored, trained
from engine.reward.thr import values_of
from engine.sampling.generation import sample
from engine.tokenization import Tokenizer

GROUP = 16


def finish(steps: Any) -> Any:
    """Return what a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def group_of(model: LoadedModel) -> Scored:
    """Return 16 sampled responses to a prompt of the gallery, half of them called right at least.

    Rewards are the checker's where it says both; else every second response is called right, which
    costs the same.
    """
    item = next(item for item in gallery() if item.name == "wrong-step" and item.trace)
    assert item.trace is not None
    start = item.trace.response_start
    prompt = list(item.trace.ids[:start])
    tokenizer = Tokenizer.load(model.located.tokenizer_path)
    drawn = [c for batch in sample(model, prompt, SAMPLER, range(GROUP)) for c in batch]
    traces = tuple(
        trace_from_ids([*prompt, *c.ids], tokenizer, response_start=start) for c in drawn
    )
    rewards = np.array([float(check(trace, "23") is True) for trace in traces])
    if len(set(rewards)) == 1:
        rewards = np.arange(GROUP) % 2.0
    rows = [trained(trace) for trace in traces]
    lengths = np.array([len(r) for r in rows])
    return Scored(
        name=None,
        first=0,
        traces=traces,
        rewards=rewards,
        judged=np.zeros(GROUP, bool),
        correct=rewards == 1,
        advantage=advantages(rewards),
        rollout=np.repeat(np.arange(GROUP), lengths),
        position=np.concatenate(rows),
        lengths=lengths,
        average="response",
    )


def best(work: Callable[[], object], repeats: int) -> float:
    """Return the least CPU seconds of a few runs, after one that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def linear(rows: Rows, scored: Scored, repeats: int) -> Iterator[dict[str, Any]]:
    """Time THR for the group's tokens, and for as many again and again."""
    weights = scored.right * scored.per_length
    times = {}
    for factor in (1, 4, 16):
        hidden, target = rows.hidden.repeat(factor, 1), rows.target.repeat(factor)
        more = Rows(rows.head, hidden, target)
        pulls = np.tile(weights, factor)
        times[factor] = best(lambda more=more, pulls=pulls: more.pull(pulls), repeats)
        what = f"THR from hidden states, {len(target):,} tokens: CPU s"
        yield row(what, "", times[factor])
    per_doubling = (times[16] / times[1]) ** 0.25
    yield row("16 times the tokens: times as long, per doubling", "<= 2.2", per_doubling)


def memory() -> Iterator[dict[str, Any]]:
    """Measure the growth of the process's peak with a large vocabulary."""
    rng = torch.Generator().manual_seed(0)
    vocabulary, width, tokens = 151_936, 64, 2_048
    head = Head(torch.randn(vocabulary, width, generator=rng), None, 1.0, 0.0)
    hidden = torch.randn(tokens, width, generator=rng)
    target = torch.randint(0, vocabulary, (tokens,), generator=rng)
    rows = Rows(head, hidden, target)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows.pull(np.ones(tokens))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    logits = 4 * tokens * vocabulary / 2**20
    yield row(f"THR, vocabulary 152k, 2,048 tokens (logits {logits:,.0f} MB): MB added", "", grown)


def by_token(
    model: LoadedModel, scored: Scored, weights: np.ndarray[Any, Any], rollouts: int
) -> tuple[np.ndarray[Any, Any], float]:
    """THR's product for the tokens of some rollouts, one backward for each of them.

    The output matrix alone has a gradient; the direction and the forwards are not timed.

    Returns:
        The products, and the CPU seconds of the backwards.
    """
    head: Any = model.model.get_output_embeddings()
    matrix, found, seconds = head.weight.detach().clone().requires_grad_(), [], 0.0

    def log_p(index: int) -> torch.Tensor:
        trace, places = scored.traces[index], scored.position[scored.rollout == index]
        hidden = model.hidden(trace.ids)
        logp = (hidden[:-1] @ matrix.T).log_softmax(-1)
        return logp[places - 1, torch.tensor([trace.ids[p] for p in places])]

    total = sum(
        torch.as_tensor(weights[scored.rollout == i], dtype=matrix.dtype) @ log_p(i)
        for i in range(GROUP)
        if scored.correct[i]
    )
    assert isinstance(total, torch.Tensor)
    (direction,) = torch.autograd.grad(total, matrix)
    for index in range(rollouts):
        tokens = log_p(index)
        start = time.process_time()
        for one in tokens:
            (gradient,) = torch.autograd.grad(one, matrix, retain_graph=True)
            found.append(float((gradient * direction).sum()))
        seconds += time.process_time() - start
    return np.array(found), seconds


def lean(rows: Rows, weights: np.ndarray[Any, Any], count: int) -> None:
    """Do the same with a graph of one row for each token, the least that autograd can do."""
    matrix = rows.head.weight.clone().requires_grad_()
    for k in range(count):
        one = log_probs(rows.head, matrix, rows.hidden[k : k + 1], rows.target[k : k + 1])
        (gradient,) = torch.autograd.grad(one.sum(), matrix)
        float((gradient * gradient).sum())


def against_autograd(
    model: LoadedModel, rows: Rows, scored: Scored, repeats: int
) -> Iterator[dict[str, Any]]:
    """Compare the linear form with a gradient for each token, per token."""
    weights = scored.right * scored.per_length
    ours = best(lambda: rows.pull(weights), repeats) / len(weights)
    found, seconds = by_token(model, scored, weights, 4)
    theirs = min(seconds, by_token(model, scored, weights, 4)[1]) / len(found)
    apart = np.abs(found - rows.pull(weights)[: len(found)]).max()
    small = best(lambda: lean(rows, weights, 100), 2) / 100
    yield row("THR, CPU microseconds per token", "", ours * 1e6)
    yield row("autograd token by token, CPU microseconds per token", "", theirs * 1e6)
    yield row("THR against autograd token by token, times as fast", ">= 20", theirs / ours)
    yield row("THR against autograd with one row for each token", "", small / ours)
    yield row("largest difference to autograd, nats", "", float(apart))
    whole = best(lambda: values_of(rows, scored, 1.0), repeats)
    yield row("all columns of reward.thr but influence: CPU s", "", whole)


def passes(model: LoadedModel, scored: Scored, repeats: int) -> Iterator[dict[str, Any]]:
    """Compare influence with a forward pass of the group."""
    network = Network(model, scored, torch.float32)

    def plain() -> None:
        with torch.no_grad():
            for batch in network.batches:
                model.model(input_ids=batch.ids, use_cache=False)

    forward = best(plain, repeats)
    both = best(lambda: finish(influence(model, scored)), repeats)
    central = best(lambda: finish(influence(model, scored, method="central")), repeats)
    before = model.forwards
    finish(influence(model, scored))
    tokens = len(scored.rollout)
    yield row(f"forward pass of the group ({tokens:,} response tokens): CPU s", "", forward)
    yield row("influence of the group: CPU s", "", both)
    yield row("influence in forward passes of the group, forward mode", "<= 6", both / forward)
    yield row("influence in forward passes of the group, difference", "", central / forward)
    made = model.forwards - before
    yield row("passes it makes, two of them of one rollout to check the prompt", "", made)


def run(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows (part, what, target, measured)."""
    repeats = 3 if quick else 7
    with threads(1):
        model = bundled()
        scored = group_of(model)
        rows = finish(read_rows(model, scored))
        if not quick:  # first, because memory is read as the growth of the process's peak
            yield from named(memory())
        yield from named(linear(rows, scored, repeats))
        yield from named(against_autograd(model, rows, scored, repeats))
        yield from named(passes(model, scored, repeats))


def named(lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Put these rows under this part's name."""
    for line in lines:
        yield {**line, "part": "reward"}


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(f"{line['what']:70} {line['measured']!s:>10} {line['target']}", flush=True)
