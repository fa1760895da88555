"""What a cell's model costs, and whether it fits: counted without weights where the code of its layers allows
that.
"""

import contextlib
import traceback

import torch
from torch import nn

from architectures import ModelOptions, SequenceModel, account
from architectures.model import check_size, sketched
from architectures.sizes.accounting import Account, account_model
from mad.data.records import Cost
from mad.messages import last_words
from mad.run.driver import one_driver
from mad.run.sweep import Cell


@one_driver()
def cost_of(cell: Cell, model: nn.Module | None = None) -> Cost:
    """Parameters, FLOPs and state of a cell's model at its task's length; `model` is that one, if built."""
    if cell.architecture.spec is not None:
        found = counted_cost(cell)
        if isinstance(found, Cost) and found.flops_per_token is not None:
            return found
    model = cell.architecture.build(cell.task, 0) if model is None else model
    # A layer of the user's own need not know its FLOPs.
    with contextlib.suppress(RuntimeError):
        if isinstance(model, SequenceModel):
            return _cost(account_model(model, cell.task.seq_len))
    return _parameters(model)


@one_driver()
def counted_cost(cell: Cell) -> Cost | str:
    """The same without weights, on the meta device; what a user's code raised where it does not run there."""
    model = sketch_cell(cell)
    if isinstance(model, str):
        return model
    if not isinstance(model, SequenceModel):
        return _parameters(model)
    try:
        return _cost(
            account(
                model.spec,
                vocab_size=model.vocab_size,
                dim=model.dim,
                seq_len=model.max_len,
                readout=model.readout,
                options=model.options,
            )
        )
    except BaseException as error:
        if not cell.architecture.config.sources or isinstance(error, KeyboardInterrupt):
            raise
        return _parameters(model)


@one_driver()
def sketch_cell(cell: Cell) -> nn.Module | str:
    """The cell's model without weights; where a user's code does not allow that, what it raised."""
    task, architecture = cell.task, cell.architecture
    require_memory(cell)
    try:
        if architecture.spec is not None and (dim := architecture.config.dim) is not None:
            options = ModelOptions(**architecture.config.options)
            return sketched(architecture.spec, task.vocab_size, dim, task.seq_len, task.readout, options)
        with torch.device("meta"):
            return architecture.build(task, 0)
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if architecture.factory is None and not architecture.config.sources:
            raise
        return last_words("".join(traceback.format_exception_only(error)))


def require_memory(cell: Cell) -> None:
    """Refuse a spec whose model would not fit into memory, with the gradient, two moments and a copy for each
    point of the grid.
    """
    task, architecture = cell.task, cell.architecture
    if architecture.spec is not None and (dim := architecture.config.dim) is not None:
        options, copies = ModelOptions(**architecture.config.options), 4 * len(cell.setting.grid)
        sizes = task.vocab_size, dim, task.seq_len, task.readout, options
        check_size(architecture.spec, *sizes, copies=copies)


def _parameters(model: nn.Module) -> Cost:
    return Cost(params=sum(p.numel() for p in model.parameters()))


def _cost(found: Account) -> Cost:
    return Cost(
        params=found.params,
        core_params=found.core,
        flops_per_token=found.flops,
        training_flops_per_token=found.training_flops,
        state=found.state,
        nominal_state=found.nominal,
    )
