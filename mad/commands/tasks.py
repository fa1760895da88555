"""The commands `mad tasks` and `mad tasks show`: what is asked, and an example of it."""

from typing import Annotated

import typer
from rich.text import Text

from mad import terminal
from mad.commands.flags import argument, option

# Lines of an example at its beginning, and as many at its end.
LINES_SHOWN = 100

tasks = typer.Typer(help="List the tasks, or show one.", rich_markup_mode=None)


@tasks.callback(invoke_without_command=True)
def list_tasks(ctx: typer.Context) -> None:
    """List the tasks, or show one."""
    if ctx.invoked_subcommand is not None:
        return
    import synthetic_tasks

    table = terminal.new_table("task", "defaults", "chance", "answers at", "what is asked")
    for name in synthetic_tasks.names():
        task = synthetic_tasks.get(name)
        options = ", ".join(f"{k}={v}" for k, v in task.content().items() if k not in ("name", "version"))
        where = {"every": "each position", "last": "the end, all at once"}[task.readout]
        about = (type(task).__doc__ or "").strip().splitlines()[0]
        table.add_row(name, options, f"{task.chance:.3f}", where, about)
    console = terminal.console()
    console.print(table)
    console.print(
        "\nA task of your own is named by its class, my_tasks:Reverse; `mad check` tests it. Exams made "
        "of tasks: `mad suites`.",
        style="dim",
        soft_wrap=True,
    )


@tasks.command("show")
def show_task(
    name: Annotated[str, argument("A task or module:Task, with its options: 'compression[seq_len=8]'.")],
    seed: Annotated[int, option("Seed of the example.")] = 0,
) -> None:
    """Draw an example of a task and explain it."""
    import synthetic_tasks

    task, console = synthetic_tasks.parse(name), terminal.console()
    console.print(f"{task}   version {task.version}, chance {task.chance:.4f}", style="bold", markup=False)
    console.print((type(task).__doc__ or "").split(">>>")[0].rstrip(), markup=False)
    batch = task.draw(seed, "test", 1)
    inputs, targets = batch.inputs[0], batch.targets[0]
    width = len(str(task.vocab_size - 1)) + 1
    per_line = max(8, (console.width - 9) // width)
    console.print(f"\nAn example (seed {seed}): tokens, and below them what is to be answered there.\n")
    lines = range(0, task.seq_len, per_line)
    left_out = max(0, len(lines) - 2 * LINES_SHOWN)
    for i, start in enumerate([*lines[:LINES_SHOWN], *lines[LINES_SHOWN + left_out :]]):
        if left_out and i == LINES_SHOWN:
            console.print(f"... {left_out * per_line:,} tokens left out\n")
        part = slice(start, start + per_line)
        console.print("tokens  " + "".join(f"{t:>{width}}" for t in inputs[part]), soft_wrap=True)
        scored = ("." if t == synthetic_tasks.IGNORE else t for t in targets[part])
        answers = "".join(f"{t:>{width}}" for t in scored)
        console.print(Text("answer  " + answers, style="green"), soft_wrap=True)
        console.print("")
