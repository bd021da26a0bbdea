"""Devices by `accelerate`: when it is used, and how processes that train together stay in step.

One process on a CPU needs none of it. With a GPU, or started by `accelerate launch` or `torchrun`, model,
optimiser, loader and scheduler are prepared by one `Accelerator`: bf16 autocast on a GPU, gradients averaged
over processes. Every process reads the same tables and fits the small parts by itself; the first one owns
the work folder and writes the bundle.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import torch

from trainer.conditions import Conditions

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def open_accelerator() -> Accelerator | None:
    """An `Accelerator` where there is a GPU or more than one process, else None."""
    has_gpu = torch.cuda.is_available()
    if not has_gpu and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import Accelerator

    return Accelerator(cpu=not has_gpu, mixed_precision="bf16" if has_gpu else "no")


def is_first(conditions: Conditions) -> bool:
    """Whether this process writes."""
    return conditions.accelerator is None or conditions.accelerator.is_main_process


def agree(conditions: Conditions, value: T) -> T:
    """The first process's value, in all of them: what to skip must not be decided by each for itself."""
    accelerator = conditions.accelerator
    if accelerator is None or accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    found = [value]
    broadcast_object_list(found, from_process=0)
    return found[0]
