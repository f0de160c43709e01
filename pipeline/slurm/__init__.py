"""Artefacts made by jobs of SLURM: submitted as one dependency graph, then looked at. Nothing has to stay alive."""
