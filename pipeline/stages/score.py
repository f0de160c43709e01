"""One reward model's rewards for every response of every benchmark, once: set, id, response, reward, the norm of what
the head read, its distances to the other responses of the row, and whether the response was cut."""

from pathlib import Path

from pipeline import contract, rows, scoring, stopping
from pipeline.checkpoint import Checkpoints
from pipeline.conversations import Asked
from pipeline.stage import Inputs, Sections
from pipeline.track import Track


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    model, tokenizer = contract.load(inputs["rm"], x.run.packing)
    data = [(name, row) for name in sorted(set(inputs) - {"rm"}) for row in rows.read(inputs[name])]
    asked = [Asked(rows.asked_of(row), rows.responses_of(row)) for _, row in data]
    checkpoints = Checkpoints(out, x.run)
    parts = scoring.Parts(checkpoints.folder)
    total = sum(len(a.responses) for a in asked)
    with Track(x, out, total, len(parts.done)) as log, stopping.stops_between_steps():

        def tick(done: int) -> None:
            log.progress(done)
            if done < total and checkpoints.due(done):
                checkpoints.stop_if_asked()

        scored = scoring.keep(model, tokenizer, asked, x.run.micro_tokens, parts, tick)
    made = []
    for record in scored:
        name, row = data[record.pop("row")]
        made.append({"set": name, "id": row["id"], **record})
    rows.write(out, made, "scores")
    return {"responses": total, "truncated": sum(row["truncated"] for row in made)}
