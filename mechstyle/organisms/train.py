"""Train an organism: `python -m mechstyle.organisms.train RECIPE.toml --out FOLDER`.

Checkpoints survive a kill: the same command goes on from the last one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ..errors import InputError
from ..files import atomic_write
from .mixing import documents
from .recipe import Recipe, read_recipe
from .tokenizer import train_tokenizer
from .world import World, build_world, read_prose

__all__ = ["new_model", "rows", "save_organism", "train"]

TOKENIZER_DOCUMENTS: Final = 20_000
"""What the tokenizer is trained on."""


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
    # On a CPU the backward pass of the fused attention is slow.
    config._attn_implementation = "eager"
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

    Matrices are trained with Muon (K. Jordan et al. 2024), embeddings and vectors with AdamW; the forward
    pass is in bf16. `losses.csv` keeps the mean loss of every hundred steps.

    Args:
        device: where to train; torch's default device when None.
        compiled: train through `torch.compile` (needs a C compiler; faster on a CPU).
        checkpoint_every: steps between checkpoints; a killed training loses at most so many.
        console: where progress goes; silent when None.

    Raises:
        InputError: the folder holds a training by another recipe.
    """
    _require_same(recipe, out)
    out.mkdir(parents=True, exist_ok=True)
    world, prose = build_world(seed=recipe.world_seed), read_prose()
    tokenizer = _tokenizer(recipe, world, prose)
    target = torch.device(device) if device else torch.get_default_device()
    model = new_model(recipe, tokenizer).train()
    torch.nn.Module.to(model, target)
    run = _Run(model, _optimizers(model, recipe))
    done = run.resume(out / "checkpoint.pt")
    stream = rows(tokenizer, documents(world, prose, seed=recipe.seed + 1), n_ctx=recipe.n_ctx)
    stream = itertools.islice(stream, done * recipe.batch, None)
    loss_of = torch.compile(_loss) if compiled else _loss
    started = time.monotonic()
    for step in range(done, recipe.steps):
        batch = torch.tensor(list(itertools.islice(stream, recipe.batch)), device=target)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.step(_schedule(step, recipe.steps))
        run.losses.append(loss.item())
        if console is not None and (step + 1) % 20 == 0:
            speed = (step + 1 - done) * batch.numel() / (time.monotonic() - started)
            console.print(f"step {step + 1}/{recipe.steps}  loss {loss.item():.3f}  {speed:,.0f} tokens/s")
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            run.save(out / "checkpoint.pt")
            save_organism(model, tokenizer, recipe, out)
            _save_losses(run.losses, out / "losses.csv")
    return out


def _require_same(recipe: Recipe, out: Path) -> None:
    """Refuse a folder in which another recipe was begun: its schedule or sizes would not fit."""
    if not (out / "checkpoint.pt").exists() or not (out / "recipe.toml").exists():
        return
    begun = asdict(read_recipe(out / "recipe.toml"))
    if differing := [name for name, value in asdict(recipe).items() if begun[name] != value]:
        told = ", ".join(f"{name} {begun[name]} there and {getattr(recipe, name)} here" for name in differing)
        raise InputError(
            f"{out}: holds a training by another recipe ({told}). Name another folder, or use that one."
        )


def _tokenizer(recipe: Recipe, world: World, prose: Sequence[str]) -> PreTrainedTokenizerFast:
    """The same for all sizes of a world: its text does not hang on a recipe's seed."""
    sample = itertools.islice(documents(world, prose, seed=0), TOKENIZER_DOCUMENTS)
    return train_tokenizer(sample, vocab=recipe.vocab, n_ctx=recipe.n_ctx)


class _Run:
    """A model in training: its optimisers, its losses, and their checkpoint."""

    def __init__(self, model: GPT2LMHeadModel, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.model = model
        self.optimizers = optimizers
        self.losses: list[float] = []
        self._rates = [[group["lr"] for group in one.param_groups] for one in optimizers]

    def step(self, scale: float) -> None:
        """One step of every optimiser at `scale` times its peak learning rate; gradients are cleared."""
        for one, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(one.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            one.step()
            one.zero_grad(set_to_none=True)

    def save(self, path: Path) -> None:
        """Write a checkpoint in one piece."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [one.state_dict() for one in self.optimizers],
            "losses": self.losses,
        }
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> int:
        """Steps already done: those of the checkpoint, which is loaded; 0 where there is none."""
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for one, saved in zip(self.optimizers, state["optimizers"], strict=True):
            one.load_state_dict(saved)
        self.losses = list(state["losses"])
        return len(self.losses)


def save_organism(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, out: Path
) -> None:
    """Write weights (fp16 safetensors), tokenizer and recipe as a Hugging Face folder."""
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


def _loss(model: GPT2LMHeadModel, batch: Tensor) -> Tensor:
    with torch.autocast(batch.device.type, dtype=torch.bfloat16):
        logits = model(batch[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def _optimizers(model: GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of blocks, AdamW for embeddings and vectors."""
    blocks = {id(p) for p in model.transformer.h.parameters() if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in blocks]
    tables = [p for p in model.parameters() if p.ndim == 2 and id(p) not in blocks]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    decay = recipe.weight_decay
    groups = [
        {"params": tables, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True),
    ]


def _schedule(step: int, steps: int) -> float:
    warm_up = max(1, int(0.03 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 1.0 - 0.95 * (step - warm_up) / max(1, steps - warm_up)


def _save_losses(losses: Sequence[float], path: Path) -> None:
    """The mean loss of every hundred steps."""
    with atomic_write(path) as temporary:
        starts = range(0, len(losses), 100)
        means = [sum(losses[i : i + 100]) / len(losses[i : i + 100]) for i in starts]
        lines = [f"{min(i + 100, len(losses))},{mean:.4f}\n" for i, mean in zip(starts, means, strict=True)]
        temporary.write_text("".join(["steps,loss\n", *lines]), encoding="utf-8")


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
