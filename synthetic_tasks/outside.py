"""Tasks of the user's own: the class that "package.module:Task" names."""

import importlib
import os
import sys
from difflib import get_close_matches

from synthetic_tasks.task import Task


def load(path: str) -> type[Task]:
    """Imports the class; the current folder is searched too. Refused with a ValueError: what is not there,
    what is not a task that `@task` registers, and `__main__`, which is another module in each process.
    """
    module_name, _, attribute = path.partition(":")
    if module_name == "__main__":
        remedy = (
            f"put the class into a file of its own, my_tasks.py for example, and name my_tasks:{attribute}"
        )
        raise ValueError(f"{path} lies in the program itself, where no other process finds it; {remedy}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{path}: module {module_name} needs {error.name}, which is not installed"
            ) from error
        raise ValueError(
            f"{path}: there is no module {module_name}; run from the folder that holds it, "
            "or install its package"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{path}: module {module_name} cannot be imported: {type(error).__name__}: {error}; repair it"
        ) from error
    if not hasattr(module, attribute):
        known = [name for name, found in vars(module).items() if isinstance(found, type)]
        near = get_close_matches(attribute, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "; name a class in it"
        raise ValueError(f"{path}: module {module_name} has no {attribute!r}{hint}")
    found = getattr(module, attribute)
    if not (isinstance(found, type) and issubclass(found, Task)):
        kind = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ValueError(
            f"{path} is not a task but {kind}; name a class that derives from synthetic_tasks.Task"
        )
    if "name" not in vars(found):
        raise ValueError(
            f"{path} has neither name nor version; write @task('my-task', version=1) above it, from "
            "synthetic_tasks"
        )
    return found
