"""Models in the plain PyTorch style, captured: their code knows nothing of tasks.

Axes: T tokens, d width, B images.
"""

if __name__ != "dynpartition.models.zoo":
    raise ImportError("import dynpartition.models.zoo, not zoo")
