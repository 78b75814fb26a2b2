"""Runs and other programs: a foreign model as a workdir, and a run's parameters in foreign files."""
