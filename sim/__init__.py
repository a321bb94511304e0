"""The simulator: the SimPy reference and the backend on top of it."""

from dynpartition.sim.backend import SimBackend, SimSession
from dynpartition.sim.perturb import perturbed
from dynpartition.sim.reference import simulate

__all__ = ["SimBackend", "SimSession", "perturbed", "simulate"]

if __name__ != "dynpartition.sim":
    raise ImportError("import dynpartition.sim, not sim")
