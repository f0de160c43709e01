"""Who may import whom, by reading every import statement; and what the commands really load."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import PROJECT
from pipeline.stages import STAGES

MODULES = sorted((PROJECT / "pipeline").rglob("*.py"))
SCRIPTS = sorted((PROJECT / "scripts").glob("*.py"))
FILES = {path.relative_to(PROJECT).with_suffix("").as_posix().replace("/", "."): path for path in (*MODULES, *SCRIPTS)}

HEAVY = {"torch", "transformers", "datasets"}
# What computes with models. Everything else of pipeline/ must not need torch to be imported.
TORCH = {
    *("advantages", "base", "chat", "checkpoint", "dist", "fit", "losses", "models", "packing", "sample", "scoring"),
    *("armorm", "attention", "cells", "contract", "dynamics", "gold_model", "implicit", "lora", "probe", "shards"),
    *(f"doctor.{name}" for name in ("head", "patient", "reading", "writing")),
    *("objective", "placed", "policy", "proxy", "rollout", "text", "watch"),
    *(f"stages.{name}" for name in ("rank", "rloo", "rm", "sft")),
    "judges.local",
}
# Decides what to run; not even inside a function may it import torch.
PLANNING = (
    "actions",
    "claims.formats",
    "claims.spec",
    "claims.verdicts",
    "config",
    "constants",
    *(f"cost.{name}" for name in ("estimate", "fit", "memory", "sheet", "show", "work")),
    "errors",
    "experiment",
    "lock",
    "plan",
    "show",
    "source",
    "stage",
    "stats",
    "store",
    "table.cells",
    "table.formats",
    "table.spec",
    "why",
)
PURE = {"losses": {"torch"}, "advantages": {"torch"}}
METRICS = {"numpy", "pandas", "scipy"}
METRICS_MORE = {"alpaca_eval": {"sklearn"}, "group_folds": {"sklearn"}}
ONLY = {
    "hydra": {"pipeline.config", "scripts.run"},
    "omegaconf": {"pipeline.config", "scripts.run"},
    "submitit": {"pipeline.slurm.transport"},
    "wandb": {"pipeline.track"},
    "sklearn": {"pipeline.metrics.alpaca_eval", "pipeline.metrics.group_folds"},
}
ENVIRONMENT = {
    *(f"pipeline.{name}" for name in ("config", "dist", "dispatch", "forkserver", "launch")),
    *(f"pipeline.slurm.{name}" for name in ("inside", "client")),
    "pipeline.judges.client",  # its key alone
}


def imports(path: Path, inside_functions: bool = True) -> Iterator[str]:
    """Dotted names of everything a file imports."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    stack: list[ast.AST] = [ast.parse(path.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a module lies"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if inside_functions or not isinstance(node, functions):
            stack.extend(ast.iter_child_nodes(node))


def libraries(path: Path, inside_functions: bool = True) -> set[str]:
    """Names of libraries, ours included, that a file imports; without the standard library."""
    return {name.partition(".")[0] for name in imports(path, inside_functions)} - sys.stdlib_module_names


def ours(path: Path) -> set[str]:
    """Modules of pipeline/ that a file imports."""
    return {name for name in imports(path) if name.startswith("pipeline.")}


def test_the_rules_speak_of_modules_that_exist():
    named = {*TORCH, *PLANNING, *PURE, *(f"metrics.{name}" for name in METRICS_MORE)}
    assert {f"pipeline.{name}" for name in named} | ENVIRONMENT <= set(FILES)


def test_an_import_is_found_wherever_it_stands(tmp_path: Path):
    path = tmp_path / "x.py"
    path.write_text("import a.b\nif True:\n    from c import d\ndef f():\n    import e\nclass G:\n    import h\n")
    assert set(imports(path)) == {"a.b", "c.d", "e", "h"}
    assert set(imports(path, inside_functions=False)) == {"a.b", "c.d", "h"}


@pytest.mark.parametrize("name", sorted(set(FILES) - {f"pipeline.{module}" for module in TORCH}))
def test_what_does_not_compute_with_models_imports_no_torch(name: str):
    assert not libraries(FILES[name], inside_functions=False) & HEAVY


@pytest.mark.parametrize("name", PLANNING)
def test_what_decides_what_to_run_imports_no_torch_anywhere(name: str):
    assert not libraries(FILES[f"pipeline.{name}"]) & HEAVY


def reached(name: str, seen: set[str]) -> set[str]:
    """Modules of ours that importing this one runs, packages included."""
    if name in FILES and name not in seen:
        seen.add(name)
        for needed in imports(FILES[name], inside_functions=False):
            parts = needed.split(".")
            for n in range(1, len(parts) + 1):
                reached(".".join(parts[:n]), seen)
                reached(".".join([*parts[:n], "__init__"]), seen)
    return seen


@pytest.mark.parametrize(
    "name", [*(f"pipeline.{module}" for module in (*PLANNING, "dispatch", "forkserver", "job")), "scripts.run"]
)
def test_nor_does_anything_that_it_reaches(name: str):
    reaches = {f"pipeline.{module}" for module in TORCH} & reached(name, set())
    assert not reaches and not set.union(*(libraries(FILES[m], False) for m in reached(name, set()))) & HEAVY


@pytest.mark.parametrize("name", PURE)
def test_losses_and_advantages_see_torch_and_what_a_constant_may_be(name: str):
    assert libraries(FILES[f"pipeline.{name}"]) - {"pipeline"} == PURE[name]
    assert {module.split(".")[1] for module in ours(FILES[f"pipeline.{name}"])} <= {"constants", "errors"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("pipeline.metrics")])
def test_metrics_see_arrays_and_each_other(name: str):
    allowed = METRICS | METRICS_MORE.get(name.rpartition(".")[2], set())
    assert libraries(FILES[name]) - {"pipeline"} <= allowed
    assert all(module.startswith("pipeline.metrics") for module in ours(FILES[name]))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("pipeline.world")])
def test_the_world_is_made_of_seeds_and_itself(name: str):
    """It is read by whoever plans; its tokenizer alone needs a library."""
    allowed = {"tokenizers"} if name == "pipeline.world.tokenizer" else set()
    assert libraries(FILES[name]) - {"pipeline"} <= allowed
    assert all(
        module.startswith(("pipeline.world", "pipeline.seeds", "pipeline.errors")) for module in ours(FILES[name])
    )


@pytest.mark.parametrize("stage", STAGES)
def test_stages_meet_through_artefacts_alone(stage: str):
    assert not {module for module in ours(FILES[f"pipeline.stages.{stage}"]) if module.startswith("pipeline.stages")}


def test_each_stage_has_its_file_and_each_file_its_stage():
    files = {name.removeprefix("pipeline.stages.") for name in FILES if name.startswith("pipeline.stages.")}
    assert files - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_decides_nothing_about_what_runs(stage: str):
    known = {"pipeline.stage", "pipeline.experiment"}  # what it is given: a view, its inputs, types of settings
    deciding = {f"pipeline.{name}" for name in (*PLANNING, "dispatch", "job")} - known
    assert not deciding & {".".join(module.split(".")[:2]) for module in ours(FILES[f"pipeline.stages.{stage}"])}


def test_nothing_in_the_pipeline_imports_a_script():
    assert not {name for name, path in FILES.items() if "scripts" in libraries(path)}


@pytest.mark.parametrize("library", ONLY)
def test_one_place_for_each_library_of_the_plumbing(library: str):
    assert {name for name, path in FILES.items() if library in libraries(path)} <= ONLY[library]


def environment(path: Path) -> bool:
    """Does a file read or write environment variables?"""
    names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return bool(names & (attributes | {name.rpartition(".")[2] for name in imports(path)}))


def test_environment_variables_are_read_in_few_places():
    assert {name for name, path in FILES.items() if environment(path)} <= ENVIRONMENT


def test_reading_the_environment_is_found(tmp_path: Path):
    for text in ("import os\nos.environ['A']", "from os import getenv", "import os as o\no.getenv('A')"):
        (tmp_path / "x.py").write_text(text)
        assert environment(tmp_path / "x.py")


def test_no_module_is_named_after_nothing():
    assert not {"utils", "common", "helpers", "misc"} & {name.rpartition(".")[2] for name in FILES}


# --- what a command really loads ---

LOADS = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as e:
    code = e.code or 0
print(json.dumps([code, sorted(sys.modules)]))
"""
NEVER_LOADED = {
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "wandb",
    "matplotlib",
    "pandas",
    "numpy",
    "scipy",
    "pyarrow",
}


def loaded(script: str, *arguments: str) -> set[str]:
    """Top-level modules that a command has imported at its end."""
    command = [sys.executable, "-c", LOADS, str(PROJECT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    code, names = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("action", ["plan", "status", "explain", "render"])
def test_looking_loads_nothing_heavy(action: str, results: Path):
    key = json.loads((Path(__file__).parent / "golden" / "keys.json").read_text())["rm/bt-s0"]
    arguments = ["table=cross", "scale=smoke", "seed=0", f"run.root={results}", f"action={action}", f"key={key}"]
    assert not NEVER_LOADED & loaded("reproduce.py", *arguments)


def test_help_loads_next_to_nothing():
    assert not (NEVER_LOADED | {"hydra", "omegaconf"}) & loaded("reproduce.py", "--help")


@pytest.mark.parametrize("action", ["plan", "status"])
def test_looking_at_one_stage_loads_nothing_heavy(action: str, results: Path):
    assert not NEVER_LOADED & loaded("run.py", "stage=rm", "scale=smoke", f"run.root={results}", f"action={action}")
