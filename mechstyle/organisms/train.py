"""Train an organism: `python -m mechstyle.organisms.train RECIPE.toml --out FOLDER`.

Checkpoints survive a kill: the same command goes on from the last one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ..files import atomic_write
from .recipe import Recipe, read_recipe
from .tokenizer import train_tokenizer
from .world import World, build_world, documents, read_prose

__all__ = ["new_model", "rows", "save_organism", "train"]


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A fresh GPT-2-architecture model of the recipe's size, initialised from its seed."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.n_ctx,
        n_embd=recipe.d_model,
        n_layer=recipe.n_layers,
        n_head=recipe.n_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return GPT2LMHeadModel(config)


def rows(tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], *, n_ctx: int) -> Iterator[list[int]]:
    """Endless training rows of `n_ctx` tokens; each begins a document, every other one after `<|endoftext|>`.

    A document that a row cuts off opens the next row, so that no fact is lost at the border.
    """
    end = tokenizer.eos_token_id
    batches = iter(lambda: list(itertools.islice(texts, 512)), [])
    encoded = (ids for batch in batches for ids in tokenizer(batch, add_special_tokens=False)["input_ids"])
    carried: list[int] = []
    with_bos = True
    while True:
        row = [end] if with_bos else []
        with_bos = not with_bos
        while len(row) < n_ctx:
            document = carried or next(encoded)
            carried = []
            room = n_ctx - len(row)
            if len(document) > room and row[:-1]:
                carried = document[: n_ctx - 1]
            row += [*document, end]
        yield row[:n_ctx]


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str | None = None,
    compiled: bool = False,
    checkpoint_every: int = 200,
    console: Console | None = None,
) -> Path:
    """Train to the recipe's token budget and write a Hugging Face folder to `out`.

    Args:
        device: where to train; torch's default device when None.
        compiled: train through `torch.compile` (needs a C compiler).
        checkpoint_every: steps between checkpoints; a killed training loses at most so many.
        console: where progress goes; silent when None.
    """
    out.mkdir(parents=True, exist_ok=True)
    world, prose = build_world(seed=recipe.world_seed), read_prose()
    sample = itertools.islice(documents(world, prose, seed=recipe.seed), 20_000)
    tokenizer = train_tokenizer(sample, vocab=recipe.vocab, n_ctx=recipe.n_ctx)
    target = torch.device(device) if device else torch.get_default_device()
    model = new_model(recipe, tokenizer).train()
    torch.nn.Module.to(model, target)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98))
    done = _resume(model, optimizer, out / "checkpoint.pt")
    stream = rows(tokenizer, documents(world, prose, seed=recipe.seed + 1), n_ctx=recipe.n_ctx)
    stream = itertools.islice(stream, done * recipe.batch, None)
    forward = torch.compile(model) if compiled else model
    started = time.monotonic()
    for step in range(done, recipe.steps):
        batch = torch.tensor(list(itertools.islice(stream, recipe.batch)), device=target)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _schedule(step, recipe.steps)
        loss = _loss(forward, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if console is not None and (step + 1) % 20 == 0:
            speed = (step + 1 - done) * batch.numel() / (time.monotonic() - started)
            console.print(f"step {step + 1}/{recipe.steps}  loss {loss.item():.3f}  {speed:,.0f} tokens/s")
        if (step + 1) % checkpoint_every == 0:
            _checkpoint(model, optimizer, step + 1, out / "checkpoint.pt")
            save_organism(model, tokenizer, world, recipe, out)
    save_organism(model, tokenizer, world, recipe, out)
    return out


def save_organism(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, world: World, recipe: Recipe, out: Path
) -> None:
    """Write weights (fp16 safetensors), tokenizer, ground truth and recipe as a Hugging Face folder."""
    with atomic_write(out / "recipe.toml") as temporary:
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in asdict(recipe).items()]
        temporary.write_text("".join(lines), encoding="utf-8")
    tokenizer.save_pretrained(out)
    model.config.save_pretrained(out)
    tied = {id(p): n for n, p in reversed(list(model.named_parameters()))}
    weights = {
        n: p.detach().half().cpu().contiguous() for n, p in model.named_parameters() if tied[id(p)] == n
    }
    with atomic_write(out / "model.safetensors") as temporary:
        save_file(
            weights, temporary, metadata={"format": "pt", "organism": f"{recipe.name} v{recipe.version}"}
        )
    with atomic_write(out / "facts.jsonl") as temporary:
        told = [json.dumps(fact.to_dict(), ensure_ascii=False) + "\n" for fact in world.facts]
        temporary.write_text("".join(told), encoding="utf-8")


def _loss(model: Callable[..., Any], batch: Tensor) -> Tensor:
    with torch.autocast(batch.device.type, dtype=torch.bfloat16):
        logits = model(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def _groups(model: GPT2LMHeadModel, weight_decay: float) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _schedule(step: int, steps: int) -> float:
    warm_up = max(1, int(0.03 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 1.0 - 0.95 * (step - warm_up) / max(1, steps - warm_up)


def _checkpoint(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def _resume(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train an organism from its recipe.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default=None)
    parser.add_argument("--compile", action="store_true", dest="compiled")
    options = parser.parse_args(arguments)
    recipe, console = read_recipe(options.recipe), Console()
    train(recipe, options.out, device=options.device, compiled=options.compiled, console=console)


if __name__ == "__main__":
    main()
