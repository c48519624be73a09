"""Everything that can be known to be wrong before anything starts: one line for each problem, with key and remedy."""

from __future__ import annotations

from servable.config.problem import Problem
from servable.doctor.examine import Examined, examine

__all__ = ["Examined", "Problem", "examine"]
