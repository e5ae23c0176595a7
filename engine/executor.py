"""One streaming executor for every merge method: tensors in float32, one rounding, to a folder or into a live model.

`Merger.tensor` is the only place where a merged tensor is made. The search applies it in place and the export writes
it, so what is exported is what was scored, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine import merging
from engine.checkpoints import MAX_SHARD_BYTES, copy_tokenizer, write_checkpoint, write_config
from engine.errors import StageError
from engine.events import Emit, Event, ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Module

    from engine.checkpoints import Source, TensorSpec


class Merger:
    """A merge that fits, ready to give its tensors one at a time; peak memory is a few times its largest tensor.

    `plan` holds what was worked out before any tensor was read, `specs` the result's names, dtypes and shapes in
    order. To try other numbers build another over the same sources: with resident sources no file is read again.
    """

    def __init__(self, config: Mapping[str, Any], sources: Mapping[str, Source], *, seed: int = 0) -> None:
        """Check everything that configs and headers can tell; no tensor is read.

        Args:
            config: a mergekit configuration with `models` or `slices`, every number concrete.
            sources: what its `model`, `base_model` and `tokenizer_source` strings stand for.
            seed: of the methods that draw at random.

        Raises:
            PlanError: the sources do not fit each other or the method, or a parameter is missing.
        """
        self.method = merging.load(config["merge_method"])
        checkpoints = {name: source.checkpoint for name, source in sources.items()}
        self.plan = merging.plan_merge(self.method, config, checkpoints)
        self.specs: tuple[TensorSpec, ...] = tuple(step.spec for step in self.plan.steps.values())
        self.names = tuple(self.plan.steps)
        self._sources = sources
        self._seed = seed

    def tensor(self, name: str) -> Tensor:
        """Make one merged tensor, in the shape and dtype of its spec. Never write to it: it may be a source's own.

        Raises:
            StageError: the result is not finite; the message names the source that is to blame.
        """
        step = self.plan.steps[name]
        if not step.is_floating:
            return self._copied(step)
        tensors = [self._sources[source].read(tensor) for source, tensor in step.inputs]
        merged = tensors[0]
        if step.each:  # a slice that lists only the base keeps it
            merged = self.method.merge(tensors, step.each, step.shared, f"{self._seed}/{name}")
        rounded = _to(merged, step.spec.dtype)
        if not rounded.isfinite().all():
            raise _not_finite(step, tensors, merged)
        return rounded

    def write(self, folder: Path, emit: Emit = ignore, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        """Stream the merged model into an existing folder: weights, tokenizer, generation_config.json, config.json.

        Emits `warning` with {"message"} and `progress` with {"done", "total", "unit": "B"}.

        Raises:
            StageError: a tensor that is not finite, a folder with weights in it, or too little room on the disk.
        """
        for message in self.plan.warnings:
            emit(Event("warning", data={"message": message}))
        report = _progress(sum(spec.nbytes for spec in self.specs), emit)
        write_checkpoint(folder, self.specs, self.tensor, max_shard_bytes=max_shard_bytes, written=report)
        copy_tokenizer(self._sources[self.plan.tokenizer].checkpoint, folder)
        write_config(folder, self.plan.config)

    def apply(self, model: Module) -> None:
        """Write the merged tensors over those of a live transformers model, in place; tied ones are written once.

        Raises:
            StageError: the model's names, shapes or dtypes are not those of the merge (the model is then unchanged),
                or a tensor is not finite.
        """
        import torch

        live: dict[str, Tensor] = model.state_dict(keep_vars=True)
        _check_live(self.specs, live)
        with torch.no_grad():
            for name in self.names:
                live[name].copy_(self.tensor(name))

    def _copied(self, step: merging.Step) -> Tensor:
        first, *others = [self._sources[source].checkpoint.read(tensor) for source, tensor in step.inputs]
        if not all(first.equal(other) for other in others):
            names = ", ".join(source for source, _ in step.inputs)
            raise StageError(
                f"{step.spec.name} holds no weights ({step.spec.dtype}) and is not the same in {names}.",
                hint="Only models that agree in such tensors can be merged.",
            )
        return first


def _to(tensor: Tensor, dtype: str) -> Tensor:
    import torch

    return tensor.to(getattr(torch, dtype))


def _progress(total: int, emit: Emit) -> Callable[[int], None]:
    done = 0

    def report(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        emit(Event("progress", data={"done": done, "total": total, "unit": "B"}))

    return report


def _not_finite(step: merging.Step, tensors: Sequence[Tensor], merged: Tensor) -> StageError:
    for (source, name), tensor in zip(step.inputs, tensors, strict=True):
        if not tensor.isfinite().all():
            return StageError(
                f"{source} has NaN or infinite values in its tensor {name}.",
                hint="The checkpoint is damaged or its training diverged: leave it out, or download it again.",
            )
    if merged.isfinite().all():
        largest = float(merged.abs().max())
        return StageError(
            f"The merged tensor {step.spec.name} reaches {largest:.3g}, which {step.spec.dtype} cannot hold.",
            hint="Write the merge with `dtype: bfloat16` or `dtype: float32`.",
        )
    return StageError(
        f"The merged tensor {step.spec.name} has NaN or infinite values, and every source is finite.",
        hint="Its weights are too large or nearly cancel where they are divided by their sum.",
    )


def _check_live(specs: Sequence[TensorSpec], live: Mapping[str, Tensor]) -> None:
    merged = dict.fromkeys(spec.name for spec in specs)
    owner: dict[int, str] = {}
    for name in [name for name in merged if name in live]:
        other = owner.setdefault(id(live[name]), name)
        if other != name:
            raise _other_model(f"it ties {name} to {other}, and the merge has two tensors for them")
    # A tied output matrix is the embedding's own tensor under a second name.
    only_live = [name for name, tensor in live.items() if name not in merged and id(tensor) not in owner]
    only_merged = [name for name in merged if name not in live]
    for side, names in (("it", only_live), ("the merge", only_merged)):
        if names:
            raise _other_model(f"only {side} has {names[0]}")
    for spec in specs:
        dtype = str(live[spec.name].dtype).removeprefix("torch.")
        if dtype != spec.dtype or tuple(live[spec.name].shape) != spec.shape:
            raise _other_model(
                f"its {spec.name} is {dtype} {list(live[spec.name].shape)}, the merge's {spec.dtype} {list(spec.shape)}"
            )


def _other_model(why: str) -> StageError:
    return StageError(
        f"The merge cannot be written into the loaded model: {why}.",
        hint="Load the model from one of the merge's sources, in the dtype that the merge writes.",
    )
