"""Engines that the simulator is measured against, and the worlds for it."""
