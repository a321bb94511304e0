"""dynpartition.agent: schedulers, the environment, the policy and its training.

Axis letters: N tasks, D devices, R ready tasks shown, K = R·D candidates, F features, B episodes,
T decisions. `train` needs torch; import it by module. Nothing imported here does.
"""

if __name__ != "dynpartition.agent":
    raise ImportError("import dynpartition.agent, not agent")
