"""Calibration: measuring, fitting, shipped profiles, and simulator-against-machine validation."""

if __name__ != "dynpartition.calibration":
    raise ImportError("import dynpartition.calibration, not calibration")
