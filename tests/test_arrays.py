"""Missing artefacts as arrays: who shares one, and what each element waits for."""

from pathlib import Path
from typing import Any

from artefacts import toys

from pipeline import plan
from pipeline.config import experiment
from pipeline.plan import Node
from pipeline.slurm.arrays import Array, Place, lay_out

SIZE = 1001
STAGES = {
    **toys(alpha={"slug": lambda x: f"a-s{x.seed}"}, beta={"slug": lambda x: f"b-s{x.seed}"}),
}


def nodes(root: Path, *settings: dict[str, Any]) -> list[Node]:
    xs = [experiment((), {"loss": "bsr", **more}) for more in settings]
    graph, _ = plan.build(STAGES, root, [("gamma", x) for x in xs])
    return list(graph.values())


def told(arrays: list[Array]) -> list[tuple[str, list[int], list[str], list[Place]]]:
    return [(a.title, sorted(a.nodes), sorted(a.same), sorted(a.others)) for a in arrays]


def waits_for(node: Node, arrays: list[Array]) -> set[str]:
    """Keys of what SLURM would let this artefact wait for."""
    (array, index) = next((a, i) for a in arrays for i, n in a.nodes.items() if n is node)
    by_name = {a.name: a for a in arrays}
    pairs = [(name, index) for name in array.same] + list(array.others)
    return {by_name[name].nodes[i].key for name, i in pairs}


def test_seeds_are_one_array_element_by_element(root: Path):
    made = lay_out(nodes(root, *({"seed": s, "loss.coef": 0.1 + s} for s in (3, 5))), {}, SIZE)
    assert told(made) == [
        ("alpha/a-s*", [3, 5], [], []),
        ("beta/b-s*", [3, 5], ["new-0"], []),
        ("gamma/g*", [3, 5], ["new-0", "new-1"], []),
    ]


def test_what_all_share_is_waited_for_by_all(root: Path):
    made = lay_out(nodes(root, *({"loss.coef": c} for c in (0.1, 0.2, 0.3))), {}, SIZE)
    assert told(made) == [
        ("alpha/a-s0", [0], [], []),
        ("beta/b-s*", [0, 1, 2], [], [("new-0", 0)]),
        ("gamma/g*", [0, 1, 2], ["new-1"], [("new-0", 0)]),
    ]


def test_everything_waits_for_all_its_inputs_and_for_nothing_else(root: Path):
    grid = [{"seed": s, "loss.coef": c} for c in (0.1, 0.2) for s in (0, 1, 4)]
    todo = nodes(root, *grid, {"seed": 9, "loss.coef": 0.1})
    made = lay_out(todo, {}, SIZE)
    assert sorted(n.key for a in made for n in a.nodes.values()) == sorted(n.key for n in todo)
    for node in todo:
        assert waits_for(node, made) == {need.key for need in node.inputs.values()}


def test_what_is_queued_already_is_waited_for_by_its_number(root: Path):
    alpha, beta, gamma = nodes(root, {"seed": 2})
    made = lay_out([gamma], {alpha.key: ("12", 7), beta.key: ("13", 2)}, SIZE)
    assert [(sorted(a.nodes), sorted(a.same), sorted(a.others)) for a in made] == [([2], ["13"], [("12", 7)])]


def test_an_index_stays_below_what_the_cluster_allows(root: Path):
    made = lay_out(nodes(root, *({"seed": s} for s in range(1, 6))), {}, 3)
    assert all(index < 3 for array in made for index in array.nodes)
    assert sum(len(array.nodes) for array in made) == 15
